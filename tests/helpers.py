"""What the tests share: bounded waiting, a grid's agents written by hand, and the log's invariants."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from inspect import isawaitable
from itertools import count
from typing import Any, Protocol

from msgspec import Struct, structs

from orion_streams.agents.router import Router
from orion_streams.decider.decide import decide
from orion_streams.eventlog.loader import fold_raw
from orion_streams.eventlog.port import Log
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.commit import Commit, Expected, Guard, OutEntry, Snapshot
from orion_streams.model.state import Grid, parse_stream_id
from orion_streams.projections import apply
from orion_streams.protocol import agent_entries
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.protocol.node_health import inventory_digest

POLL_S = 0.01
WAIT_S = 120.0
"""The bound of every wait for a condition: it only ends what will never come."""
MODEL = "llama3.2:3b"
TERMINAL_REPLIES = ("done", "error", "expired", "cancelled")
Fields = dict[bytes, bytes]


async def eventually(holds: Callable[[], Any], what: str) -> Any:
    """The first true answer of a function, also an async one; AssertionError with `what` if none comes."""
    never = asyncio.Event()
    for _ in range(int(WAIT_S / POLL_S)):
        answer = holds()
        if found := await answer if isawaitable(answer) else answer:
            return found
        try:
            await asyncio.wait_for(never.wait(), POLL_S)
        except TimeoutError:
            continue
    raise AssertionError(f"not within {WAIT_S:.0f} s: {what}")


def eventually_true(holds: Callable[[], bool], what: str) -> None:
    """`eventually` where no event loop runs."""
    never = threading.Event()
    for _ in range(int(WAIT_S / POLL_S)):
        if holds():
            return
        never.wait(POLL_S)
    raise AssertionError(f"not within {WAIT_S:.0f} s: {what}")


class Store(Protocol):
    """A log under test and what tests need around it, the same in memory, on Valkey and on Redis.
    Streams are named without prefix."""

    log: Log
    kind: str
    prefix: str

    def another(self) -> Log:
        """A second log on the same data, as another process would have it."""
        ...

    async def add(self, stream: str, fields: Mapping[Any, Any], entry_id: str = "") -> str:
        """XADD by a client or an agent; the entry's id."""
        ...

    async def entries(self, stream: str) -> list[tuple[str, Fields]]:
        """All entries of a stream."""
        ...

    async def delete(self, stream: str, entry_id: str) -> None:
        """XDEL."""
        ...

    async def drop(self, key: str) -> None:
        """DEL: the whole stream, or the guard."""
        ...

    async def dump(self) -> dict[str, Any]:
        """All streams and the guard as they are, to compare or to restore."""
        ...

    async def restore(self, dumped: dict[str, Any]) -> None:
        """As if nothing since the dump had reached the disk."""
        ...

    async def blocked(self) -> int:
        """How many readers wait."""
        ...

    def skip(self, ms: int) -> None:
        """Move the server's clock on."""
        ...


def make_commit(
    expected: Expected = Expected(),  # noqa: B008 - frozen
    *,
    events: Iterable[bytes] = (),
    outs: Iterable[OutEntry] = (),
    set: Mapping[str, str] | None = None,
    drop: Iterable[str] = (),
    token: str = "",
) -> Commit:
    """A commit after `expected`."""
    written = tuple(outs)
    return Commit(
        expected=expected,
        number=expected.number + 1,
        token=token or f"token {expected.number + 1}",
        out_id=written[-1].id if written else "0-0",
        events=tuple(events),
        outs=written,
        set=dict(set or {}),
        drop=tuple(drop),
    )


async def expected_next(log: Log) -> Expected:
    """What the next commit has to expect."""
    guard: Guard = await log.guard()
    return Expected(guard.number, guard.token, await log.last_position())


class Run(Struct, frozen=True):
    """An attempt that an agent holds."""

    request: str
    attempt: int
    work_id: str


class Agent:
    """A node's agent, driven by hand: it reads `work:<node>`, writes results and consistent health."""

    def __init__(
        self, store: Store, node: str, models: tuple[str, ...] = (MODEL,), boot: str = "b1"
    ) -> None:
        self.store, self.node, self.boot = store, node, boot
        self.installed = tuple(
            agent_entries.InstalledModel(name, f"digest of {name}", 2000) for name in models
        )
        self.runs: dict[str, Run] = {}
        self.work_read = self.results_written = ""
        self.beats = 0
        self._mono = count(1000, 1000)

    async def beat(self, **changes: Any) -> str:
        """One health entry: cool and with room, unless `changes` say otherwise."""
        self.beats += 1
        head = agent_entries.HealthHead(
            boot=self.boot,
            sampled_ms=next(self._mono),
            temp_mc=50_000,
            ram_used_mb=2000,
            ram_total_mb=8192,
            cpu_permille=100,
            inventory_digest=inventory_digest(self.installed),
            inventory=self.installed,
            in_hand=tuple(self.runs),
            work_read=self.work_read,
            results_written=self.results_written,
        )
        head = structs.replace(head, **changes)
        return await self.store.add(f"health:{self.node}", {"head": agent_entries.encode_head(head)})

    async def read_work(self) -> list[Run]:
        """Take what the router sent since the last look; a cancelled run ends as failed."""
        fresh = []
        for work_id, fields in await self.store.entries(f"work:{self.node}"):
            if parse_stream_id(work_id) <= parse_stream_id(self.work_read):
                continue
            self.work_read = work_id
            head = agent_entries.decode_work(fields[b"head"])
            if head.op == "run":
                run = Run(head.request, head.attempt, work_id)
                self.runs[work_id] = run
                fresh.append(run)
            elif head.op == "cancel" and head.work_id in self.runs:
                await self.fail(self.runs[head.work_id], code="cancelled", blame="ours")
        return fresh

    async def say(self, run: Run, op: agent_entries.ResultOp, text: bytes = b"", **changes: Any) -> str:
        """One entry of `results:<node>` about a run; what ends it, ends it."""
        head = agent_entries.ResultHead(op, run.request, run.attempt, run.work_id, **changes)
        fields: dict[str, bytes] = {"head": agent_entries.encode_head(head)}
        if text:
            fields["text"] = text
        self.results_written = await self.store.add(f"results:{self.node}", fields)
        if op in ("completed", "failed"):
            self.runs.pop(run.work_id, None)
        return self.results_written

    async def complete(self, run: Run, text: bytes = b"42", **changes: Any) -> str:
        """The run is answered."""
        numbers = {"tokens": 2, "prompt_tokens": 3, "prefill_ms": 30, "decode_ms": 20, "total_ms": 50}
        return await self.say(run, "completed", text, **(numbers | changes))

    async def fail(self, run: Run, code: str = "broken", blame: str = "node") -> str:
        """The run ended without an answer."""
        return await self.say(run, "failed", code=code, blame=blame)


async def ask(store: Store, request_id: str, client: str = "brain", **fields: Any) -> str:
    """Write a request; the entry's id."""
    asked = {"id": request_id, "model": MODEL, "prompt": f"prompt of {request_id}"} | fields
    return await store.add(f"requests:{client}", asked)


async def settle(router: Router, rounds: int = 200) -> None:
    """Cycle until nothing is left to commit at this moment."""
    for _ in range(rounds):
        if not await router.cycle(block_ms=0):
            return
    raise AssertionError(f"still committing after {rounds} cycles")


async def replies(store: Store, client: str = "brain") -> list[dict[str, str]]:
    """What the client was told, in order; `entry` is the reply's own id."""
    return [
        {"entry": entry_id} | {name.decode(): value.decode() for name, value in fields.items()}
        for entry_id, fields in await store.entries(f"replies:{client}")
    ]


async def kinds(store: Store, request_id: str, client: str = "brain") -> list[str]:
    """The kinds of the replies under one id, in order."""
    return [row["kind"] for row in await replies(store, client) if row["id"] == request_id]


async def history(log: Log) -> list[ev.AnyEvent]:
    """All events of an untrimmed log."""
    return [event_codec.decode(raw) for _, raw in await log.events(0, 1_000_000)]


async def snapshots(log: Log) -> list[Snapshot]:
    """All that are kept, the newest first."""
    found: list[Snapshot] = []
    while newer := await log.snapshot_after(found[-1].position if found else -1):
        found.append(newer)
    return found[::-1]


async def folded(log: Log) -> LoggedGrid:
    """The grid and running hash from the first event on, without any snapshot."""
    state = LoggedGrid(Grid())
    fold_raw(state, await log.events(0, 1_000_000))
    return state


def without_stamps(event: ev.AnyEvent) -> ev.AnyEvent:
    """A decision as `decide` made it: the shell stamped the ids of the entries that it caused."""
    stamped = isinstance(event, ev.RequestRouted | ev.LoadOrdered)
    stamps = ("work_id", "reply_id") if stamped else ("reply_id",)
    held = {name: "" for name in stamps if hasattr(event, name)}
    return structs.replace(event, **held) if held else event


def assert_replays(log_events: list[ev.AnyEvent]) -> int:
    """Recompute every decision of a log from its beginning. How many commits had one to make."""
    grid, decided, position = Grid(), 0, 0
    while position < len(log_events):
        head = log_events[position]
        assert isinstance(head, ev.Committed), f"position {position + 1} belongs to no commit: {head}"
        taken = log_events[position : position + 1 + head.inputs]
        for event in taken:
            assert event is head or not isinstance(event, ev.Committed), "fewer inputs than the head says"
            apply(grid, event)
        position += len(taken)
        answers: list[ev.AnyEvent] = []
        while position < len(log_events) and not isinstance(log_events[position], ev.Committed):
            answers.append(log_events[position])
            position += 1
        expected = decide(grid) if head.decided else ()
        assert [without_stamps(each) for each in answers] == list(expected), (
            f"commit {head.number} diverged"
        )
        decided += head.decided
        for event in answers:
            apply(grid, event)
    return decided


TERMINAL_EVENTS = {
    ev.RequestCompleted: "done",
    ev.RequestFailed: "error",
    ev.RequestExpired: "expired",
    ev.RequestCancelled: "cancelled",
}


async def assert_consistent(store: Store, clients: tuple[str, ...] = ("brain",)) -> list[ev.AnyEvent]:
    """The invariants of an untrimmed log and its streams. The log's events.

    Gapless and unchanged; every decision recomputes; every request is answered at most once, by its
    current attempt; every dispatch and every terminal reply exists exactly once; tokens rise.
    """
    rows = await history(store.log)
    await folded(store.log)
    assert_replays(rows)
    current: dict[str, str] = {}
    routed: list[tuple[str, str]] = []
    ends: Counter[tuple[str, str]] = Counter()
    for event in rows:
        match event:
            case ev.RequestAccepted():
                assert event.request not in current, f"{event.request} was accepted while open"
                current[event.request] = ""
            case ev.RequestRouted():
                assert event.request in current, f"{event.request} was routed while not open"
                current[event.request] = event.work_id
                routed.append((event.node, event.work_id))
            case ev.RequestCompleted() | ev.RequestFailed() | ev.RequestExpired() | ev.RequestCancelled():
                fence = current.pop(event.request, None)
                assert fence is not None, f"{event.request} ended while not open"
                if isinstance(event, ev.RequestCompleted):
                    assert event.work_id == fence, f"{event.request} was answered by an old attempt"
                ends[event.request, TERMINAL_EVENTS[type(event)]] += 1
            case _:
                pass
    assert sorted(routed) == sorted(await dispatched(store)), "dispatches differ from decisions"
    told: Counter[tuple[str, str]] = Counter()
    for client in clients:
        rows_of_client = await replies(store, client)
        told.update(
            (f"{client}/{row['id']}", row["kind"])
            for row in rows_of_client
            if row["kind"] in TERMINAL_REPLIES
        )
        assert_tokens_rise(rows_of_client)
    assert told == ends, "terminal replies differ from terminal events"
    return rows


async def dispatched(store: Store) -> list[tuple[str, str]]:
    """All runs that were ever handed out, as (node, work id)."""
    found = []
    for stream in await store.dump():
        kind, _, node = stream.partition(":")
        if kind == "work":
            for work_id, fields in await store.entries(stream):
                if agent_entries.decode_work(fields[b"head"]).op == "run":
                    found.append((node, work_id))
    return found


def assert_tokens_rise(rows: list[dict[str, str]]) -> None:
    """Within an attempt tokens come in order and once; a new attempt is announced before its tokens."""
    last: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row["kind"] == "restarted":
            last[row["id"]] = (int(row["attempt"]), 0)
        elif row["kind"] == "token":
            attempt, seq = int(row["attempt"]), int(row["seq"])
            known = last.get(row["id"], (1, 0))
            assert (attempt, seq) > known, f"token {attempt}/{seq} of {row['id']} after {known}"
            assert attempt == known[0] or known == (1, 0), f"attempt {attempt} was not announced"
            last[row["id"]] = (attempt, seq)
