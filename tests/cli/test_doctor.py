"""`orion doctor` on real servers: running, away, hung, refusing, read-only, damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
import redis as sync_redis

from orion_streams.cli.doctor import collect_facts
from orion_streams.cli.doctor.collect_facts import FactCollector, backed_off_since, is_reachable
from orion_streams.cli.doctor.doctor_command import Diagnosis, diagnose
from orion_streams.config import Config, NodeConfig, parse
from orion_streams.demo.ollama import serve
from orion_streams.errors import LogError
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import ClientRules
from orion_streams.model.state import Closed, Grid
from orion_streams.model.vocabulary import Mark, RequestState
from orion_streams.runtime import acl
from orion_streams.runtime.embedded_server import EmbeddedServer, free_port
from tests.agents.agent_bench import QUICK, Bench, process, running
from tests.cli.conftest import Orion
from tests.cli.run_cli import TOML, prepared
from tests.conftest import SERVERS, MemoryStore
from tests.helpers import WAIT_S, eventually

READER = [
    "+ping", "+info", "+time", "+hgetall", "+xrange", "+xrevrange", "+xread", "+xinfo", "+xlen", "+type",
    "+memory|usage",
]  # fmt: skip
Doctor = Callable[..., tuple[int, Diagnosis]]


@pytest.fixture
def doctor(orion: Orion) -> Doctor:
    """`orion doctor --json`: its exit code, and what it found."""

    def look(*words: str) -> tuple[int, Diagnosis]:
        code, out, err = orion("doctor", "--json", *words)
        assert (out.count("\n"), err) == (1, "")
        return code, msgspec.json.decode(out, type=Diagnosis)

    return look


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest) -> str:
    """Each of the session's servers."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def own(url: str, home: Path, prefix: str) -> Iterator[Any]:
    """A prepared grid of this test's own and its ./streams.toml; a plain client of its server."""
    prepared(url, prefix)
    (home / "streams.toml").write_text(TOML.format(prefix=prefix, url=url))
    client: Any = sync_redis.Redis.from_url(url)
    yield client
    client.delete(*client.keys(f"{prefix}*"))
    client.close()


def about(found: Diagnosis, what: str) -> list[str]:
    """What is wrong with one thing."""
    return [each.what for each in found.findings if each.about == what and each.severity != "ok"]


def snapshot(client: Any, prefix: str) -> dict[bytes, bytes]:
    """All keys of a grid as they are."""
    return {key: client.dump(key) for key in sorted(client.keys(f"{prefix}*"))}


def test_a_grid_is_looked_at_and_nothing_is_written(
    doctor: Doctor, orion: Orion, own: Any, prefix: str
) -> None:
    """A hot node, one never heard of, no router: exit 3 in both forms, and no byte has changed."""
    before = snapshot(own, prefix)
    code, found = doctor()
    assert (code, found.severity) == (3, "problem")
    [worker] = about(found, "worker")
    assert worker.startswith("backed off for ")
    assert "too hot: 76.1 °C now, its mark is 75.0 °C" in worker
    assert about(found, "never") == ["never heard from: its agent has not run"]
    code, out, _ = orion("doctor")
    assert code == 3
    assert all(each.about in out for each in found.findings)
    assert "never heard from: its agent has not run" in out
    assert "→ on never: orion agent --node never" in out
    assert snapshot(own, prefix) == before


def as_user(own: Any, url: str, home: Path, prefix: str, rules: list[str]) -> None:
    """Let ./streams.toml name a user with these rights on the grid's keys."""
    name = f"user-{prefix[:-1]}"
    own.execute_command("ACL", "SETUSER", name, "reset", "on", ">pw", f"%R~{prefix}*", *rules)
    with_user = url.replace("redis://", f"redis://{name}:pw@")
    (home / "streams.toml").write_text(TOML.format(prefix=prefix, url=with_user))


def test_a_stream_that_nobody_reads_is_found(doctor: Doctor, own: Any, prefix: str) -> None:
    """Under the grid's prefix only; keys that are no streams, the grid's own, and those of a grid whose
    prefix begins with this one's are not meant."""
    names = [f"{prefix}requests:kitchen", f"{prefix}work:old", f"not-{prefix}requests:kitchen"]
    names += [f"{prefix}test:log", f"{prefix}test:requests:kitchen"]
    for name in names:
        own.xadd(name, {"a": "b"})
    own.set(f"{prefix}other", "x")
    _, found = doctor()
    unread = [each.what for each in found.findings if "nobody reads" in each.what]
    assert unread == [f"{name} has 1 entries, and nobody reads it" for name in names[:2]]
    own.delete(*names)


def test_the_streams_of_guests_are_the_grids_own() -> None:
    """Of those that are there, and of one that was removed while its ends are remembered."""
    collector = FactCollector(parse(TOML.format(prefix="g:", url="redis://127.0.0.1:1/0")))
    before = {*collector.streams()}
    closed = {"key-ben": {"key-ben/q": Closed(RequestState.DONE, "1-0", 0)}}
    collector.facts.grid = Grid(guests={"key-anna": ClientRules()}, closed=closed)
    kinds = ("requests", "parts", "replies")
    more = {f"{kind}:key-{name}" for kind in kinds for name in ("anna", "ben")}
    assert {*collector.streams()} == before | more
    assert "requests:brain" in before


@pytest.mark.parametrize("by_orion_acl", [True, False])
def test_a_readers_rights_are_enough(
    doctor: Doctor, orion: Orion, own: Any, url: str, home: Path, prefix: str, by_orion_acl: bool
) -> None:
    """Like the observer of `orion acl`, a reader sees all, and may archive; the password is not shown."""
    _, owner = doctor()
    observer = acl.observer(parse(TOML.format(prefix=prefix, url=url)))
    as_user(own, url, home, prefix, observer.rules(acl.hashed("pw")) if by_orion_acl else READER)
    code, found = doctor()
    assert code == 3
    assert about(found, "doctor") == []
    assert {each.about for each in found.findings} == {each.about for each in owner.findings}
    assert "pw" not in msgspec.json.encode(found).decode()
    assert orion("log", "archive", "kept")[0] == 0


@pytest.mark.parametrize("right", READER)
def test_what_may_not_be_read_is_said(
    doctor: Doctor, own: Any, url: str, home: Path, prefix: str, right: str
) -> None:
    """Each right that is missing: some check says so, or goes without, and the others go on."""
    as_user(own, url, home, prefix, [each for each in READER if each != right])
    code, found = doctor()
    assert code == 3
    if right not in ("+ping", "+xread"):
        assert any(
            "not looked at: user " in each and " may not run " in each for each in about(found, "doctor")
        ), found
    seen = {each.about for each in found.findings}
    assert seen & {"redis", "router", "never"}
    assert len(found.findings) >= 2


def test_a_wrong_password_is_78(doctor: Doctor, own: Any, url: str, home: Path, prefix: str) -> None:
    """Redis refuses the user: one problem that names the way out, exit 78, and no password."""
    wrong = url.replace("redis://", "redis://nobody:secret@")
    (home / "streams.toml").write_text(TOML.format(prefix=prefix, url=wrong))
    code, found = doctor()
    assert (code, len(found.findings)) == (78, 1)
    assert "cannot be used so" in found.findings[0].what
    assert "ORION_REDIS_PASSWORD" in found.findings[0].mend
    assert "secret" not in msgspec.json.encode(found).decode()


def test_a_dead_server_is_69(doctor: Doctor, orion: Orion, home: Path) -> None:
    """Nobody listens: one problem with the line that mends it, exit 69, also for people."""
    words = ("--redis", f"redis://127.0.0.1:{free_port()}/0")
    code, found = doctor(*words)
    assert (code, [each.severity for each in found.findings]) == (69, ["problem"])
    assert "does not answer" in found.findings[0].what
    code, out, err = orion("doctor", *words)
    assert (code, err) == (69, "")
    assert "→ sudo systemctl start orion-server" in out


def test_a_hung_server_is_69(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped server takes connections and answers nothing: it is asked once, then that is said."""
    monkeypatch.setattr(collect_facts, "PATIENCE_S", 0.3)
    with EmbeddedServer(tmp_path / "data") as server:
        assert doctor("--redis", server.url)[0] == 3
        hung = psutil.Process(server.pid)
        hung.suspend()
        try:
            code, found = doctor("--redis", server.url)
        finally:
            hung.resume()
        assert (code, len(found.findings)) == (69, 1)


def test_a_server_that_takes_no_writes_is_looked_at(doctor: Doctor, tmp_path: Path, home: Path) -> None:
    """A read-only replica, and a server without memory left: the rest is looked at all the same."""
    with EmbeddedServer(tmp_path / "data") as server:
        prepared(server.url, "g:")
        (home / "streams.toml").write_text(TOML.format(prefix="g:", url=server.url))
        client: Any = sync_redis.Redis.from_url(server.url)
        client.config_set("maxmemory", 1_000_000)
        _, found = doctor()
        assert any("soon refuses writes" in each for each in about(found, "redis"))
        assert about(found, "never") != []
        client.config_set("maxmemory", 0)
        client.replicaof("127.0.0.1", "9")
        _, found = doctor()
        assert any("read-only replica" in each for each in about(found, "redis"))
        client.close()


def test_damage_is_named_and_the_rest_is_looked_at(doctor: Doctor, own: Any, prefix: str) -> None:
    """A gap, a key of another type, a missing group, a cursor beyond the end: each is found."""
    own.xdel(f"{prefix}log", "5-0")
    own.set(f"{prefix}replies:brain", "mine")
    own.xgroup_create(f"{prefix}work:master", "agent", id="0", mkstream=True)
    own.hset(f"{prefix}guard", "cursor health:master", "9999999999999-0")
    code, found = doctor()
    assert code == 3
    assert any("the log has a gap: after 4 comes 6" in each for each in about(found, "router"))
    assert any("health:master ends at" in each and "lost" in each for each in about(found, "router"))
    streams = " ".join(about(found, "streams"))
    assert f"{prefix}replies:brain is a string" in streams
    assert f"{prefix}work:worker has no group" in streams
    assert f"{prefix}work:master" not in streams


async def looked(config: Config) -> Diagnosis:
    """What is found, inside this process."""
    return diagnose(await FactCollector(config).look())


async def test_a_running_grid_is_ok_until_its_router_dies(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """The router killed is found, its agents are not blamed; started again, all is well by itself."""
    async with serve(QUICK) as node:
        bench = Bench(valkey_url, prefix, node)
        async with running(bench.config), running(bench.config, "edge"):
            async with process(tmp_path, bench, "router") as router:
                await router.logged("leading from position")

                async def well() -> bool:
                    found = await looked(bench.config)
                    return found.severity == "ok"

                await eventually(well, "that nothing is wrong")
                assert (await FactCollector(bench.config).look()).has_row
                await router.kill()

            async def found_dead() -> bool:
                found = await looked(bench.config)
                wrong = [each for each in found.findings if each.severity != "ok"]
                return [each.about for each in wrong] == ["router"] and "nobody commits" in wrong[0].what

            await eventually(found_dead, "that nobody commits")
            async with process(tmp_path, bench, "router"):
                await eventually(well, "that it mends itself")
        await bench.close()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that notes what it is asked; it answers as an Ollama without models."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b" HTTP")[0])
        body = b'{"version":"0.24.0","models":[]}'
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()), asked


async def test_an_ollama_is_only_asked_what_loads_nothing(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version and list are read; one that is away is said; another machine's loopback is not asked."""
    monkeypatch.setattr("orion_streams.cli.doctor.collect_facts.OLLAMA_S", WAIT_S)
    async with listening() as (url, asked):
        toml = (
            f'prefix = "{prefix}"\n[redis]\nurl = "{valkey_url}"\n'
            f'[nodes.here]\nsimulated = true\nollama = "{url}"\n'
            f'[nodes.away]\nsimulated = true\nollama = "http://127.0.0.1:{free_port()}"\n'
            f'[nodes.other]\nollama = "{url}"\n'
        )
        facts = await FactCollector(parse(toml)).look()
        assert sorted(asked) == [b"GET /api/ps", b"GET /api/version"]
    assert facts.ollamas["here"].version == "0.24.0"
    assert facts.ollamas["away"].error != ""
    assert "other" not in facts.ollamas
    assert is_reachable("any", NodeConfig(ollama="http://orion-worker:11434"))


@pytest.mark.parametrize(
    ("ps", "version", "error"),
    [
        (b'{"models":[]}', b"404 page not found", ""),
        (b'{"models":null}', b'{"error":"x"}', ""),
        (b"<html>log in</html>", b"<html>log in</html>", "JSON is malformed"),
        (b'{"error":"broken"}', b'{"version":"1"}', "broken"),
    ],
)
async def test_an_ollama_is_known_by_its_list(ps: bytes, version: bytes, error: str) -> None:
    """A server without a version is one; a page is none."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=ps if request.url.path == "/api/ps" else version)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        seen = await collect_facts.ask_ollama(http, "http://pi:11434/")
    assert (error in seen.error) if error else not seen.error


def test_the_archive_of_this_machine_is_looked_at(
    doctor: Doctor, orion: Orion, own: Any, url: str, home: Path, prefix: str
) -> None:
    """With archive_dir set: where it ends, a file of it that is damaged, and a folder that is elsewhere."""
    text = TOML.format(prefix=prefix, url=url) + '[retention]\narchive_dir = "kept"\n'
    (home / "streams.toml").write_text(text)
    said = [each.what for each in doctor()[1].findings if each.about == "archive"]
    assert said == ["kept is not on this machine; it is the router's"]
    assert orion("log", "archive", "kept")[0] == 0
    [said_now] = [each for each in doctor()[1].findings if each.about == "archive"]
    assert (said_now.severity, said_now.what.startswith("kept reaches position ")) == ("ok", True)
    next((home / "kept").glob("log-*")).write_bytes(b"nothing")
    [broken] = about(doctor()[1], "archive")
    assert "line 1: cannot be read" in broken


@pytest.mark.parametrize("damage", ["trimmed", "unreadable"])
async def test_the_past_may_be_gone(monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """Trimmed while it is looked through, or with an entry that is none: later backoffs are known."""
    monkeypatch.setattr(collect_facts, "CHUNK", 2)
    store, wanted = MemoryStore(), {"pi", "other"}
    for number in range(1, 4):
        await store.add(
            "log", {"event": event_codec.encode(ev.Committed(number, number * 1000, 1, True, ""))}
        )
        await store.add(
            "log", {"event": event_codec.encode(ev.NodeBackedOff("pi", Mark.HOT, 76_000, 75_000))}
        )
    rows = store.memory.streams["log"]
    store.memory.streams["log"] = {f"{n}-0": row for n, row in enumerate(rows.values(), 1)}
    store.memory._tops["log"] = "6-0"
    if damage == "trimmed":
        await store.delete("log", "1-0")
    else:
        store.memory.streams["log"]["1-0"] = {b"event": b"no event"}
    assert await backed_off_since(store.log, 6, 1, wanted) == {"pi": 3000}
    with pytest.raises((LogError, msgspec.DecodeError)):
        [event_codec.decode(raw) for _, raw in await store.log.events(0, 2)]
