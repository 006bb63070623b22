"""A commit in the making. Pure: inputs and answers are folded, stamped and turned into entries.

The head comes first, since it moves grid time; then what was taken, then what `decide` answered. The
shell gives the server's time and, at the end, a random token.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Struct, structs

from orion_streams.decider.standings import Standing
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.commit import CURSOR, RELAYED, Commit, Expected, Guard, OutEntry, Raw
from orion_streams.model.state import Grid, client_of, parse_stream_id
from orion_streams.projections import apply
from orion_streams.protocol import agent_entries
from orion_streams.protocol.disk_replies import progress_reply
from orion_streams.protocol.emit import accepted_reply, deliver, token_reply
from orion_streams.protocol.ingest import PASSED_ON, take
from orion_streams.protocol.input_entries import Entry, Taken
from orion_streams.protocol.out_entries import Out

ENDS_A_REQUEST = (ev.RequestCompleted, ev.RequestFailed, ev.RequestExpired, ev.RequestCancelled)
ENDS_AN_ATTEMPT = (ev.RequestCompleted, ev.AttemptFailed, ev.AttemptAbandoned, ev.AttemptEnded)
_PASSED_ON = (b'{"op":"tokens"', b'{"op":"progress"')
GENESIS = b"\0" * 16
END = f"{2**64 - 1}-0"


class LoggedGrid(Struct):
    """A grid and the running hash of the log up to its position. `confirmed`: up to there a head, or
    whoever knew this state, has named that hash."""

    grid: Grid
    digest: bytes = GENESIS
    confirmed: int = 0

    def __post_init__(self) -> None:
        self.confirmed = self.confirmed or self.grid.position


def chain(digest: bytes, raw: bytes) -> bytes:
    """Return the running hash after one more log entry."""
    return hashlib.blake2b(digest + raw, digest_size=16).digest()


def not_as_written(confirmed: int, until: int, digest: bytes, named: str) -> str:
    """Say that the entries after `confirmed` up to `until` have another running hash than the log names."""
    return (
        f"what stands at positions {confirmed + 1} to {until} is not the log that was written (something "
        f"changed, missing, doubled or moved): its running hash is {digest.hex()}, and {named} is expected"
    )


def is_token(raw: Raw) -> bool:
    """Whether an entry only passes tokens or progress on, as agents write them: it causes no event."""
    head = raw.fields.get(b"head", b"")
    if not raw.stream.startswith("results:") or not head.startswith(_PASSED_ON):
        return False
    try:
        return agent_entries.decode_result(head).op in PASSED_ON
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


class CommitBuilder:
    """Build one commit. Events are folded into `state.grid`, which the caller owns. `drained`: streams
    in which nothing is left after what is taken; results of theirs that an agent names later were lost.
    `freed`: by client, parts of images whose request ends in it."""

    def __init__(
        self, state: LoggedGrid, guard: Guard, server_ms: int, drained: frozenset[str] = frozenset()
    ) -> None:
        self.grid = state.grid
        self.state = state
        self.server_ms = server_ms
        self.bytes = 0
        self.freed: dict[str, set[str]] = {}
        self._guard, self._drained = guard, drained
        self._position = state.grid.position
        self._cursors: dict[str, str] = {}
        self._relayed: dict[str, int] = {}
        self._ended: list[str] = []
        self._events: list[ev.AnyEvent] = []
        self._outs: list[OutEntry] = []
        out_ms, out_n = parse_stream_id(guard.out_id)
        self._out_ms = max(server_ms, out_ms)
        self._out_n = out_n + 1 if self._out_ms == out_ms else 0
        self._head: ev.Committed | None = None

    def begin(self, decided: bool) -> None:
        """Fold the head: without it the commit may only pass tokens on."""
        self._head = ev.Committed(
            number=self._guard.number + 1,
            server_ms=self.server_ms,
            inputs=0,
            decided=decided,
            hash=self.state.digest.hex(),
        )
        apply(self.grid, self._head)

    def take(
        self,
        raw: Raw,
        entry_max_bytes: int,
        age_max_ms: int | None,
        answer_max_bytes: int,
        drain_ms: int,
        pull_from: tuple[str, ...] = (),
    ) -> None:
        """Fold an input entry and move its cursor past it. Its age is capped unless it is backlog."""
        source, _, owner = raw.stream.partition(":")
        age_ms = max(self.server_ms - parse_stream_id(raw.id)[0], 0)
        if age_max_ms is not None:
            age_ms = min(age_ms, age_max_ms)
        entry = Entry(source, owner, raw.id, raw.fields, age_ms)
        taken = take(
            self.grid,
            entry,
            results_cursor=self._taken_up_to(f"results:{owner}"),
            relayed=self._guard.relayed | self._relayed,
            entry_max_bytes=entry_max_bytes,
            answer_max_bytes=answer_max_bytes,
            drain_ms=drain_ms,
            pull_from=pull_from,
        )
        self._cursors[raw.stream] = raw.id
        for event in taken.events:
            self.stage(event, taken)
        if taken.token is not None:
            self._relayed[taken.token.work_id] = taken.token.seq
            self._out(token_reply(taken.token, owner))
        if taken.progress is not None:
            self._out(progress_reply(taken.progress, owner))

    def _taken_up_to(self, stream: str) -> str:
        if stream in self._drained:
            return END
        return self._cursors.get(stream) or self._guard.cursors.get(stream, "0-0")

    def begin_again(self, stream: str) -> None:
        """Read an input from its beginning: it is not the one that was read before."""
        self._cursors[stream] = "0-0"

    @property
    def moves(self) -> bool:
        """Whether any cursor moves."""
        return bool(self._cursors)

    def stage(self, event: ev.AnyEvent, taken: Taken | None = None) -> None:
        """Fold an event, with the ids of the entries that it causes stamped onto it."""
        if isinstance(event, ENDS_AN_ATTEMPT):
            self._ended.append(event.work_id)
        self._free(event, taken)
        stamps: dict[str, Any] = {}
        for out in deliver(self.grid, event, self.grid.position + 1, taken):
            entry_id = self._out(out)
            if out.stamp:
                stamps[out.stamp] = entry_id
        if stamps:
            event = structs.replace(event, **stamps)
        self._events.append(event)
        apply(self.grid, event)

    def _free(self, event: ev.AnyEvent, taken: Taken | None) -> None:
        """Note the parts of a request that ends, or is rejected."""
        parts: tuple[str, ...] = ()
        if isinstance(event, ENDS_A_REQUEST) and (row := self.grid.open.get(event.request)) is not None:
            parts = row.parts
        elif isinstance(event, ev.RequestRejected) and taken is not None:
            parts = taken.parts
        else:
            return
        if parts:
            self.freed.setdefault(client_of(event.request), set()).update(parts)

    def tell(self, key: str, standing: Standing) -> None:
        """Tell a client where its request stands; that is no event."""
        self._out(accepted_reply(key, standing, self.grid.position))

    def _out(self, out: Out) -> str:
        entry_id = f"{self._out_ms}-{self._out_n}"
        self._out_n += 1
        self.bytes += out.bytes
        self._outs.append(OutEntry(out.stream, entry_id, out.fields, out.body))
        return entry_id

    @property
    def decides(self) -> bool:
        """Whether decisions belong to this commit."""
        return self._head is not None and self._head.decided

    @property
    def count(self) -> int:
        """Return the number of events so far."""
        return len(self._events)

    def mark_inputs(self) -> None:
        """Mark all events so far as inputs; what follows is decided."""
        if self._head is not None:
            self._head = structs.replace(self._head, inputs=len(self._events))

    def finish(self, token: str) -> tuple[Commit, Guard]:
        """Return the commit, and the guard as it will be once the commit is written."""
        raws = [event_codec.encode(event) for event in (self._head, *self._events) if event is not None]
        for raw in raws:
            self.state.digest = chain(self.state.digest, raw)
        held, number = self._guard, self._guard.number + 1
        out_id = self._outs[-1].id if self._outs else held.out_id
        relayed = held.relayed | self._relayed
        drop = [work_id for work_id in self._ended if relayed.pop(work_id, None) is not None]
        kept = {work_id: seq for work_id, seq in self._relayed.items() if work_id in relayed}
        commit = Commit(
            expected=Expected(held.number, held.token, self._position),
            number=number,
            token=token,
            out_id=out_id,
            events=tuple(raws),
            outs=tuple(self._outs),
            set={CURSOR + stream: entry_id for stream, entry_id in self._cursors.items()}
            | {RELAYED + work_id: str(seq) for work_id, seq in kept.items()},
            drop=tuple(RELAYED + work_id for work_id in drop),
        )
        return commit, Guard(number, token, out_id, held.cursors | self._cursors, relayed)
