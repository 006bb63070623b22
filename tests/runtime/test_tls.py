"""TLS to Redis, with certificates made here: who is trusted, who is refused, and by which words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace
from redis import Redis

from orion_streams import AsyncClient
from orion_streams.demo.simulated_grid import SimulatedGrid, three_nodes
from orion_streams.errors import EXIT_BAD_CONFIG, EXIT_NO_BACKEND
from orion_streams.model.server_urls import with_tls
from tests import certificates
from tests.cli.run_cli import TOML, run
from tests.ha.servers import Instance
from tests.needs import REDIS_SERVER

pytestmark = pytest.mark.everything
SERVER = """\
port {port}
bind 127.0.0.1
dir {dir}
logfile {dir}/log
appendonly yes
save ""
"""


class Secure(Struct, frozen=True):
    """A server with a plain port and one that speaks TLS, for 127.0.0.1 only; `ca`: who signed for it."""

    plain_port: int
    port: int
    certs: Path

    @property
    def ca(self) -> str:
        return str(self.certs / "ca.pem")


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates of this module."""
    return certificates.make(tmp_path_factory.mktemp("certs"))


def serving(folder: Path, certs: Path, clients: str) -> Iterator[Secure]:
    """Redis with both ports."""
    text = SERVER + certificates.server_conf(certs, clients)
    server = Instance(Path(str(REDIS_SERVER)), folder / "server", text)
    try:
        server.start()
        yield Secure(server.port, server.tls_port, certs)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certs: Path) -> Iterator[Secure]:
    """A server that asks its clients for no certificate."""
    yield from serving(tmp_path_factory.mktemp("tls"), certs, "no")


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, certs: Path) -> Iterator[Secure]:
    """A server that asks them for one."""
    yield from serving(tmp_path_factory.mktemp("mutual"), certs, "yes")


async def test_a_request_goes_all_the_way_over_tls(mutual: Secure) -> None:
    """Router, agents and client, all with certificates of their own: a request is answered, and all of
    them are connected to the port that speaks TLS."""
    ca, cert, key = mutual.ca, f"{mutual.certs}/client.pem", f"{mutual.certs}/client.key"
    url = f"rediss://127.0.0.1:{mutual.port}/0"
    quick = {"decode_tokens_per_s": 0.0, "prefill_tokens_per_s": 0.0, "disk_mb_per_s": 0.0}
    nodes = [replace(node, spec=replace(node.spec, **quick)) for node in three_nodes()]
    async with (
        SimulatedGrid(nodes, redis=with_tls(url, ca, cert, key)) as grid,
        AsyncClient(url, tls_ca_file=ca, tls_cert_file=cert, tls_key_file=key) as client,
    ):
        answer = await client.generate("gemma3:270m", "Is it safe?")
        assert answer.text
        assert [router.restarts for router in grid.routers] == [0]
        plain = Redis(port=mutual.plain_port)
        connected = [each["laddr"].rpartition(":")[2] for each in plain.client_list()]
        plain.close()
    assert connected.count(str(mutual.plain_port)) <= 2  # who asks here
    assert connected.count(str(mutual.port)) > 4


def asked(home: Path, url: str, command: str = "nodes", **tls: str) -> tuple[int, str]:
    """What a command says with this URL, and these TLS keys in its streams.toml: exit code, stderr."""
    keys = "".join(f'{name} = "{path}"\n' for name, path in tls.items())
    text = TOML.format(prefix="tls:", url=url).replace("[policy]", f"{keys}[policy]")
    (home / "streams.toml").write_text(text)
    code, out, err = run(home, *command.split())
    assert out == ""
    return code, err


@pytest.mark.parametrize("command", ["nodes", "router", "agent --node master", "ask Why? --model m"])
@pytest.mark.parametrize(
    ("host", "authority"), [("127.0.0.1", "other"), ("127.0.0.1", ""), ("localhost", "ca")]
)
def test_a_server_that_is_not_trusted_is_refused(
    tmp_path: Path, server: Secure, command: str, host: str, authority: str
) -> None:
    """Signed by another authority, by none that the system knows, or for another host: exit 78, as only
    the owner can mend it; one line names the key."""
    ca = f"{server.certs}/{authority}.pem" if authority else ""
    code, err = asked(tmp_path, f"rediss://{host}:{server.port}/0", command, tls_ca_file=ca)
    assert (code, "not trusted" in err, "redis.tls_ca_file" in err) == (EXIT_BAD_CONFIG, True, True)
    assert err.count("Traceback") == 0


def test_with_the_right_authority_it_is_read(tmp_path: Path, server: Secure) -> None:
    """What was refused above is the certificate alone: with the right one the empty log is named."""
    code, err = asked(tmp_path, f"rediss://127.0.0.1:{server.port}/0", tls_ca_file=server.ca)
    assert (code, "log is empty" in err) == (EXIT_NO_BACKEND, True)


@pytest.mark.parametrize("command", ["nodes", "ps"])
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_tls_on_one_side_only_is_said(tmp_path: Path, server: Secure, command: str, scheme: str) -> None:
    """A plain URL to a port that speaks TLS, and the other way round: exit 69, and the line says which URL
    it takes."""
    port = server.port if scheme == "redis" else server.plain_port
    code, err = asked(tmp_path, f"{scheme}://127.0.0.1:{port}/0", command, tls_ca_file=server.ca)
    assert (code, err.count("\n")) == (EXIT_NO_BACKEND, 1)
    assert ("rediss://" if scheme == "redis" else "redis://") in err


def test_a_client_without_its_certificate_is_told(tmp_path: Path, mutual: Secure) -> None:
    """Where the server asks for one: exit 69 and one line that says so."""
    code, err = asked(tmp_path, f"rediss://127.0.0.1:{mutual.port}/0", tls_ca_file=mutual.ca)
    assert (code, err.count("\n"), "certificate" in err) == (EXIT_NO_BACKEND, 1, True)


@pytest.mark.parametrize("key", ["tls_ca_file", "tls_cert_file", "tls_key_file"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, server: Secure, key: str) -> None:
    """Exit 78, key and path: it would otherwise be waited for as if the server were away."""
    code, err = asked(tmp_path, f"rediss://127.0.0.1:{server.port}/0", **{key: "/nowhere.pem"})
    assert (code, err) == (EXIT_BAD_CONFIG, f"orion: redis.{key}: /nowhere.pem cannot be read\n")
