"""Clients: they ask, cancel, read their replies from a position, and send again what is open
after a cut."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from orion_streams.model.commit import Raw
from tests.cluster.cluster_faults import RATES
from tests.cluster.cluster_house import DEADLINE_MS, MODELS, prompt_of
from tests.cluster.cluster_server import Line, Server
from tests.cluster.world_clock import Reader, World

WINDOWS = (6, 8, 12)
READ_COUNT, BLOCK_MS, PAUSE_MS, WAKE_MS = 100, 1_000, 150, 10
ENDS = (b"done", b"error", b"expired", b"cancelled", b"known")
MALFORMED: tuple[dict[str, Any], ...] = (
    {"prompt": b"\xff\xfe"},
    {"model": ""},
    {"prompt": "x", "messages": "[]"},
    {"options": "{" * 50},
    {"options": '{"num_ctx": -1}'},
    {"deadline_ms": "soon"},
    {"priority": "99"},
    {"tier": "10"},
    {"prompt": b"x" * 1_200_000},
)


class Call(Struct):
    """A request in flight."""

    fields: dict[str, Any]
    began_ms: int


class Client:
    """A client with so many requests to make."""

    def __init__(self, world: World, server: Server, name: str, quota: int) -> None:
        self.world, self.server, self.name, self.quota = world, server, name, quota
        self.rng = world.rng(f"client {name}")
        self.line = Line(world, server, f"client {name}")
        self.requests, self.replies = f"requests:{name}", f"replies:{name}"
        self.window = self.rng.choice(WINDOWS)
        self.asked = 0
        self.open: dict[str, Call] = {}
        self.ended: dict[str, str] = {}  # by id: the entry that ended it; empty: rejected, so not burnt
        self.tail_repeats = 0
        self.slow_ms = 0
        self._position = "0-0"
        self._last: dict[bytes, bytes] = {}
        self._cuts = self._seen_cuts = 0
        self._reader = Reader(world, self._read, WAKE_MS, BLOCK_MS)
        server.wakers.setdefault(self.replies, []).append(self._reader.wake)

    @property
    def is_finished(self) -> bool:
        """Return whether everything was asked and has ended."""
        return self.asked == self.quota and not self.open

    @property
    def has_asked(self) -> bool:
        """Return whether it has nothing new to ask."""
        return self.asked == self.quota

    def start(self) -> None:
        """Begin to read and to ask."""
        self._reader.start()
        self._fill()

    # asking

    def _fill(self) -> None:
        while len(self.open) < self.window and self.asked < self.quota:
            self.asked += 1
            request_id = f"q{self.asked}"
            call = self.open[request_id] = Call(self._fields(request_id), self.world.now_ms)
            self.world.at(self.rng.randint(0, 150), self._send, call.fields)
            if self._chance("cancel", RATES.cancel):
                self.world.at(self.rng.randint(0, 1_500), self._cancel, request_id)

    def _chance(self, fault: str, rate: float) -> bool:
        return self.line.strikes(fault, rate)

    def _fields(self, request_id: str) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "id": request_id,
            "model": self.rng.choice(tuple(MODELS)),
            "prompt": prompt_of(f"{self.name}/{request_id}"),
            "stream": "1" if self.rng.random() < 0.15 else "0",
            "deadline_ms": DEADLINE_MS,
        }
        if self._chance("short_deadline", RATES.short_deadline):
            fields["deadline_ms"] = self.rng.randint(1, 1_500)
        if self._chance("refused", RATES.refused):
            fields["system"] = "refuse"
        if self._chance("unknown_model", RATES.unknown_model):
            fields["model"] = "nobody:has-it"
        if self._chance("malformed", RATES.malformed):
            fields |= self.rng.choice(MALFORMED)
        return fields

    def _send(self, fields: dict[str, Any]) -> None:
        """Write a request until the server has it: send what may have arrived again, under the same id."""

        def sent(entry_id: str | None) -> None:
            if entry_id is None:
                self._cuts += 1
                self.world.at(PAUSE_MS, self._send, fields)

        self.line.ask(lambda: self.server.put(self.requests, fields), sent, True)

    def _cancel(self, request_id: str) -> None:
        self._send({"cancel": request_id})

    # reading

    def _read(self) -> None:
        self.world.at(self.slow_ms, self._ask_replies)

    def _ask_replies(self) -> None:
        position = {self.replies: self._position}
        self.line.ask(lambda: (self._stands(), self.server._read(position, READ_COUNT)), self._on_replies)

    def _stands(self) -> bool:
        """Return whether the last reply that was read is still what it was."""
        held = self.server.streams.get(self.replies, {}).get(self._position)
        return self._position == "0-0" or held == self._last

    def _on_replies(self, answer: tuple[bool, list[Raw]] | None) -> None:
        if answer is None:
            self._cuts += 1
            self._reader.failed(PAUSE_MS)
            return
        stands, rows = answer
        if self._cuts != self._seen_cuts and not stands:
            self._position, self._last, rows = "0-0", {}, []
        for raw in rows:
            self._position, self._last = raw.id, raw.fields
            self._hear(raw.id, raw.fields)
        if self._cuts != self._seen_cuts:
            self._seen_cuts = self._cuts
            for call in self.open.values():
                self._send(call.fields)
        self._fill()
        self._reader.done(bool(rows))

    def _hear(self, entry_id: str, fields: dict[bytes, bytes]) -> None:
        request_id, kind = fields[b"id"].decode(), fields[b"kind"]
        is_end = kind in ENDS or (kind == b"rejected" and fields.get(b"code") != b"unknown_id")
        call = self.open.get(request_id)
        if call is not None and is_end:
            del self.open[request_id]
            self.ended[request_id] = entry_id if kind != b"rejected" else ""
            if self._chance("late_resend", RATES.late_resend):
                self.world.at(self.rng.randint(50, 3_000), self._send, call.fields)
        elif call is None and kind in ENDS[:4]:
            self.tail_repeats += (self.ended.get(request_id) or entry_id) != entry_id
