"""The gateway as a process: its place, and what it says."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from orion_streams.agents.gateway_process import check_place
from orion_streams.config import parse
from orion_streams.errors import EXIT_BAD_CONFIG, ConfigError
from orion_streams.model.commit import PUBLIC
from orion_streams.protocol.public_row import PublicRow

HOUSE = '[redis]\nurl = "{url}"\n[nodes.one]\nollama = "http://{ollama}"\n[gateway]\nlisten = "{listen}"\n'


def house(ollama: str, listen: str, url: str = "redis://x:1/0") -> str:
    """A streams.toml with one node and a gateway."""
    return HOUSE.format(url=url, ollama=ollama, listen=listen)


@pytest.mark.parametrize(
    ("ollama", "listen"), [("pi:11435", "0.0.0.0:11435"), ("pi.local:11435", "127.0.0.1:11435")]
)
def test_it_takes_no_nodes_place_under_another_name(ollama: str, listen: str) -> None:
    """The node's Ollama is here, as this machine is called so: both are named."""
    with pytest.raises(ConfigError, match=f"(?s){listen}.*one has its Ollama.*{ollama}"):
        check_place(parse(house(ollama, listen)), "pi.home.arpa")


def test_another_machines_ollama_may_have_the_same_port() -> None:
    """What listens there is not in the way."""
    check_place(parse(house("other:11435", "0.0.0.0:11435")), "pi.home.arpa")


def test_a_taken_place_is_said_in_one_line(tmp_path: Path, valkey_url: str) -> None:
    """Exit 78, and where."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "streams.toml").write_text(house("other:11434", listen, valkey_url))
        command = [sys.executable, "-m", "orion_streams.cli", "gateway", "--json"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == EXIT_BAD_CONFIG
    assert ended.stdout == ""
    assert f"gateway.listen: {listen} cannot be used" in ended.stderr.splitlines()[-1]


def test_it_says_where_it_listens_and_ends_by_a_signal(
    tmp_path: Path, valkey_url: str, prefix: str
) -> None:
    """One line of JSON; then a signal ends it with 0."""
    toml = f'prefix = "{prefix}"\n' + house("other:11434", "127.0.0.1:1", valkey_url)
    (tmp_path / "streams.toml").write_text(toml)
    with Redis.from_url(valkey_url) as redis:  # as a router says that it is there
        now_s, _ = redis.time()
        row = PublicRow(("gateway",), 1, int(now_s) * 1000)
        redis.hset(prefix + PUBLIC, mapping=dict(row.fields()))
    command = [sys.executable, "-m", "orion_streams.cli", "gateway", "--json", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        process.terminate()
        assert process.wait() == 0
    assert said["gateway_url"].startswith("http://127.0.0.1:")
