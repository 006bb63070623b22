"""Where `orion install` lets the server and the gateway listen: free ports, addresses of this machine."""

from __future__ import annotations

import socket

import pytest
from msgspec import structs

from orion_streams.cli.install import machine as machines
from orion_streams.cli.install.apply import Target
from orion_streams.cli.install.install_command import (
    address_for,
    check_ports,
)
from orion_streams.cli.install.server_files import ServerWish
from orion_streams.errors import ConfigError
from orion_streams.runtime.embedded_server import free_port
from tests.install.houses import config, wish


def test_a_taken_port_is_named() -> None:
    """With how to see who has it; a free one is nobody's business."""
    target = Target("", dry=True, say=lambda _: None)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        server = ServerWish(("127.0.0.1",), port)
        with pytest.raises(ConfigError, match=rf"port {port} is taken .*\(--port\)"):
            check_ports(wish(roles=("server",), server=server), target)
    free = ServerWish(("127.0.0.1",), free_port())
    check_ports(wish(roles=("server",), server=free), target)


def test_where_nobody_can_listen_is_no_taken_port() -> None:
    """An address of another machine: the server's, and the gateway's."""
    target = Target("", dry=True, say=lambda _: None)
    server = ServerWish(("192.0.2.1",), 6379)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1: nobody can listen there \(--port\)"):
        check_ports(wish(roles=("server",), server=server), target)
    gate = structs.replace(config().gateway, listen="192.0.2.1:11435")
    with pytest.raises(ConfigError, match=r"nobody can listen there \(gateway\.listen"):
        check_ports(
            wish(roles=("gateway",), server=None, config=structs.replace(config(), gateway=gate)), target
        )


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("orion-master", "as 192.168.1.10"),
        ("0.0.0.0", "by which the others find it"),
        ("::", "by which the others find it"),
        ("224.0.0.1", "by which the others find it"),
        ("fe80::1", "one cable"),
        ("192.0.2.1", "does not have it"),
        ("2001:db8::1", "does not have it"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_refused(said: str, says: str) -> None:
    """A server that is started on it would end at once, for ever, or nobody would find it."""
    with pytest.raises(ConfigError, match=says):
        address_for(said, "", Target("", dry=True, say=lambda _: None))


def test_an_address_of_this_machine_is_listened_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However it is written; one that was lost is replaced by the one that is there, which is said."""
    target = Target("", dry=True, say=lambda _: None)
    assert address_for("127.0.0.1", "", target) == "127.0.0.1"
    monkeypatch.setattr(machines, "own_addresses", lambda: {"2001:db8::1", "192.168.1.11"})
    monkeypatch.setattr(machines, "lan_address", lambda: "192.168.1.11")
    assert address_for("2001:DB8:0::1", "", target) == "2001:db8::1"
    assert address_for(None, "2001:db8::1", target) == "2001:db8::1"
    assert address_for(None, "", target) == "192.168.1.11" and capsys.readouterr().err == ""
    assert address_for(None, "192.168.1.10", target) == "192.168.1.11"
    assert (
        "192.168.1.10, where the server listened, is not this machine's any more" in capsys.readouterr().err
    )
