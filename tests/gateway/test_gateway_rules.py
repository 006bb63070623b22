"""The [gateway] table as values; what is wrong with one is in tests/test_config.py."""

from __future__ import annotations

import pytest

from orion_streams.config import parse
from orion_streams.model.gateway_rules import place_of, taken_by

NODE = "[nodes.pi]\n"


def test_the_gateways_table_is_read() -> None:
    """Networks, IPv6, pages and aliases; an alias may be called as a key of another table."""
    text = """[gateway]
listen = "[::]:11435"
origins = ["https://chat.home.arpa", "http://pi:*", "http://[::1]:3000", "chrome-extension://*"]
[gateway.addresses]
"192.168.1.20" = "brain"
"192.168.2.0/24" = "key-guests"
"fd00::1" = "cli"
[gateway.aliases]
ollama = "llama3.2:3b"
"gpt-4o" = "gemma3:270m"
"""
    rules = parse(NODE + text).gateway
    assert (rules.place.host, rules.place.port, rules.place.is_any) == ("::", 11_435, True)
    assert rules.aliases == {"ollama": "llama3.2:3b", "gpt-4o": "gemma3:270m"}
    assert sorted(rules.addresses.values()) == ["brain", "cli", "key-guests"]


PLACES = [
    ("127.0.0.1:11434", "http://127.0.0.1:11434", True),
    ("127.0.0.1:11435", "http://127.0.0.1:11434", False),
    ("localhost:11434", "http://127.0.0.1:11434/", True),
    ("0.0.0.0:11434", "http://localhost:11434", True),
    ("192.168.1.5:11434", "http://127.0.0.1:11434", True),
    ("192.168.1.5:11434", "http://0.0.0.0:11434", True),
    ("192.168.1.5:11434", "http://192.168.1.5:11434", True),
    ("192.168.1.5:11434", "http://192.168.1.6:11434", False),
    ("[::]:11434", "http://[::1]:11434", True),
    ("127.0.0.1:80", "http://localhost", True),
    ("127.0.0.1:443", "https://localhost", True),
    ("0.0.0.0:11434", "http://pi:11434", True),
    ("0.0.0.0:11434", "http://orion-worker:11434", False),
    ("192.168.1.5:11434", "http://pi:11434", False),
    ("127.0.0.1:11434", "echo://x", False),
    ("127.0.0.1:11434", "", False),
]


@pytest.mark.parametrize(("listen", "url", "taken"), PLACES)
def test_the_gateway_never_stands_where_an_ollama_may(listen: str, url: str, taken: bool) -> None:
    """The same port of the same host, of any loopback, or of what this machine is called."""
    found = [*taken_by(place_of(listen), {"n": url}, own=("pi",))]
    assert found == ([("n", url)] if taken else [])
