"""Collects the facts for `orion doctor`, read-only; a failed check does not stop the others."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from orion_streams import config as configuration
from orion_streams.agents import alert_file
from orion_streams.agents.ollama_json import UNREADABLE, read
from orion_streams.agents.ollama_lists import resident_models
from orion_streams.cli.doctor.findings import Facts, Group, Kept, Seen, Stream
from orion_streams.config import Config, NodeConfig
from orion_streams.errors import ConfigError, LogError
from orion_streams.eventlog.archive import last_header
from orion_streams.eventlog.loader import CHUNK, END, load
from orion_streams.eventlog.port import Log
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.commit import GROUP, PUBLIC
from orion_streams.model.server_urls import shown, without_user
from orion_streams.runtime import grid_row
from orion_streams.runtime.connection import connect, in_short, is_untrusted, not_answering
from orion_streams.runtime.unread_streams import unread_streams

PATIENCE_S, OLLAMA_S = 5.0, 1.0
_object = msgspec.json.Decoder(dict[str, Any]).decode
PINGS = 5
LOOK_BACK = 20_000
"""How many events are searched for the moment when a node backed off."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_installed(config: Config) -> bool:
    """Whether this is the grid of the services that `orion install` has made on this machine."""
    if not configuration.INSTALLED_TOML.exists():
        return False
    try:
        house = configuration.read(configuration.INSTALLED_TOML)
    except ConfigError:  # `orion check` says what is wrong with it
        return False
    return without_user(shown(house.redis.url)) == without_user(shown(config.redis.url))


class FactCollector:
    """Collects the facts of one grid, once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.redis: Any = connect(config.redis.url, PATIENCE_S)
        self.store = RedisLog(self.redis, config.prefix)
        self.facts = Facts(config, shown(config.redis.url), installed=is_installed(config))
        self.facts.database = self.redis.connection_pool.connection_kwargs.get("db") or 0

    async def look(self) -> Facts:
        """Collect everything, one check after the other; stop asking a server that does not answer."""
        facts = self.facts
        try:
            for name, step in self.steps():
                if not (facts.away or facts.refused):
                    await self.tried(name, step)
        finally:
            await self.redis.aclose()
        await self.ollamas()
        self.archive()
        self.sender()
        return facts

    def steps(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Yield the checks of the server, by the name under which a failure is reported. The grid says
        which streams there are."""
        yield "PING", self.ping
        yield "INFO", self.info
        yield "TIME", self.clock
        yield "guard", self.guard
        yield "log", self.log
        yield "snapshots", self.snapshots
        yield "grid", self.grid
        yield "public row", self.public
        for name in self.streams():
            yield name, partial(self.stream, name)
        yield "streams that nobody reads", self.unread
        yield "guard again", self.guard_again

    async def tried(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Run one check and record its failure."""
        try:
            await step()
        except AuthenticationError as error:
            self.facts.refused = in_short(error)
        except NoPermissionError as error:
            self.facts.denied[name] = in_short(error).partition(": ")[0]
        except LogError as error:
            self.facts.failed[name] = str(error)
        except ResponseError as error:
            self.facts.failed[name] = in_short(error)
        except (RedisError, OSError) as error:
            if is_untrusted(error):
                self.facts.refused = in_short(error)
            elif name != "PING" and in_short(error).startswith("LOADING"):
                self.facts.failed[name] = in_short(error)
            else:
                self.facts.away = not_answering(error)

    def streams(self) -> list[str]:
        """List all keys of the grid, without the prefix."""
        per_node = [
            f"{kind}:{name}" for name in self.config.nodes for kind in ("health", "results", "work")
        ]
        grid, named = self.facts.grid, self.config.clients
        clients = {*named, *grid.guests, *grid.closed} if grid is not None else {*named}
        kinds = ("requests", "parts", "replies")
        per_client = [f"{kind}:{name}" for name in sorted(clients) for kind in kinds]
        return ["guard", "log", "snapshots", *per_node, *per_client]

    async def ping(self) -> None:
        """Measure the median round trip."""
        took_ms = []
        for _ in range(PINGS):
            began_s = time.perf_counter()
            try:
                await self.redis.ping()
            except ResponseError as error:  # an error is an answer, too
                if isinstance(error, AuthenticationError):
                    raise
            took_ms.append((time.perf_counter() - began_s) * 1000)
        self.facts.ping_ms = median(took_ms)

    async def info(self) -> None:
        info: dict[str, Any] = await self.redis.info("everything")
        self.facts.info = info
        row = info.get("latency_percentiles_usec_evalsha")
        if isinstance(row, dict) and "p99" in row:
            self.facts.script_p99_ms = float(row["p99"]) / 1000

    async def clock(self) -> None:
        before_ms = time.time() * 1000
        seconds, micros = await self.redis.time()
        self.facts.server_ms = seconds * 1000 + micros // 1000
        self.facts.clock_off_ms = round(self.facts.server_ms - (before_ms + time.time() * 1000) / 2)

    async def guard(self) -> None:
        self.facts.guard = await self.store.guard()

    async def guard_again(self) -> None:
        if self.facts.guard is not None:
            self.facts.numbers = (self.facts.guard.number, (await self.store.guard()).number)

    async def log(self) -> None:
        self.facts.first = await self.store.first_position()
        self.facts.last = await self.store.last_position()

    async def snapshots(self) -> None:
        newest = await self.store.snapshot_before(END)
        older = await self.store.snapshot_before(newest.position - 1) if newest is not None else None
        self.facts.snapshots = tuple(each.position for each in (newest, older) if each is not None)

    async def grid(self) -> None:
        """Load the grid, with its clock moved on to now."""
        facts = self.facts
        if not facts.last:
            return
        grid = (await load(self.store)).grid
        facts.silence_ms = max(facts.server_ms - grid.server_ms, 0)
        grid.at_ms += facts.silence_ms
        facts.grid = grid
        wanted = {name for name, node in grid.nodes.items() if node.backed_off}
        facts.since_ms = await backed_off_since(self.store, grid.position, facts.first, wanted)

    async def public(self) -> None:
        """See whether the grid's public row is there, if this user may."""
        _, row = await grid_row.look(self.redis, self.store.key(PUBLIC))
        self.facts.has_row = row is not None

    async def stream(self, name: str) -> None:
        """Look at one key: its type and size, its oldest waiting entry, its group."""
        key, kind = self.store.key(name), ""
        kind = (await self.redis.type(key)).decode()
        if kind != "stream":
            self.facts.streams[name] = Stream(kind)
        else:
            entries, size = await self.store.size(name)
            top = await self.top(name)
            self.facts.streams[name] = Stream(kind, entries, size, top)
        guard, (source, _, owner) = self.facts.guard, name.partition(":")
        if source in ("health", "results", "requests") and kind == "stream" and guard is not None:
            found = await self.redis.xrange(key, f"({guard.cursors.get(name, '0-0')}", "+", count=1)
            if found:
                self.facts.waiting[name] = found[0][0].decode()
        if source == "work" and kind in ("stream", "none") and self.config.nodes[owner].inference:
            rows = await self.redis.xinfo_groups(key) if kind == "stream" else []
            pending = [row["pending"] for row in rows if row["name"].decode() == GROUP]
            self.facts.groups[name] = Group(pending[0]) if pending else None

    async def top(self, name: str) -> str:
        """Return the last id that a stream made; "0-0" for parts of images, of which nobody sees any."""
        if name.startswith("parts:"):
            return "0-0"
        info = await self.redis.xinfo_stream(self.store.key(name))
        return str(info["last-generated-id"].decode())

    async def unread(self) -> None:
        """Find streams under the prefix that are none of the grid's, if this user may."""
        self.facts.unread = await unread_streams(self.redis, self.config.prefix, self.streams())

    async def ollamas(self) -> None:
        """Ask the reachable Ollamas, concurrently: in sequence the timeouts would add up."""
        async with httpx.AsyncClient(timeout=OLLAMA_S, trust_env=False) as http:
            asked = {name: node for name, node in self.config.nodes.items() if is_reachable(name, node)}
            seen = await asyncio.gather(*(ask_ollama(http, node.ollama) for node in asked.values()))
        self.facts.ollamas = dict(zip(asked, seen, strict=True))

    def sender(self) -> None:
        """Look whether a process sends alerts here. By default each user has a file of its own: one that
        does not exist says nothing."""
        path = alert_file.path_of(self.config)
        if self.config.alerts_file or path.exists():
            self.facts.sender_runs = alert_file.is_held(path)

    def archive(self) -> None:
        """Look how far the archive reaches, if there is one."""
        folder = self.config.retention.archive_dir
        if not folder:
            return
        place = Path(folder).expanduser()
        try:
            header = last_header(place)
        except LogError as error:
            self.facts.archive = Kept(True, error=str(error))
        else:
            self.facts.archive = Kept(place.is_dir(), header.last if header else 0)


def is_reachable(name: str, node: NodeConfig) -> bool:
    """Return whether the URL leads to the node's Ollama: a loopback URL is this machine's own."""
    if not node.ollama.startswith("http"):
        return False
    here = socket.gethostname().partition(".")[0] == name or node.simulated
    return here or urlsplit(node.ollama).hostname not in LOOPBACK


async def ask_ollama(http: httpx.AsyncClient, url: str) -> Seen:
    """Return the version of an Ollama that lists its models in memory, which loads none. Without a version
    it is one all the same."""
    base = url.rstrip("/")
    try:
        async with asyncio.timeout(OLLAMA_S):
            listed = (await http.get(f"{base}/api/ps")).raise_for_status()
            resident_models(listed.content)
            said = await http.get(f"{base}/api/version")
    except (httpx.HTTPError, TimeoutError, *UNREADABLE) as error:
        return Seen(error=str(error) or type(error).__name__)
    try:
        return Seen(str(read(said.content, _object).get("version", "?")))
    except UNREADABLE:
        return Seen("?")


async def backed_off_since(store: Log, last: int, first: int, wanted: set[str]) -> dict[str, int]:
    """Return when each node last backed off, in the server's time, within the last LOOK_BACK events. Stop
    where the log cannot be read: a router may trim it meanwhile."""
    found: dict[str, int] = {}
    end, oldest = last, max(first, last - LOOK_BACK, 1)
    while wanted - found.keys() and end >= oldest:
        start = max(end - CHUNK + 1, oldest)
        server_ms, here = 0, dict[str, int]()
        try:
            rows = [event_codec.decode(raw) for _, raw in await store.events(start - 1, end - start + 1)]
        except (LogError, msgspec.DecodeError, UnicodeDecodeError):
            break
        for event in rows:
            if isinstance(event, ev.Committed):
                server_ms = event.server_ms
            elif isinstance(event, ev.NodeBackedOff) and event.node in wanted and server_ms:
                here[event.node] = server_ms
        found = here | found
        end = start - 1
    return found
