"""A stage for the worker's core: scripts of words drive it, its effects come back in words."""

from __future__ import annotations

from collections.abc import Iterator

from orion_streams.agents.backend import RunFailedError
from orion_streams.agents.worker_core import (
    CANCELLED,
    Acknowledge,
    Begin,
    Done,
    Effect,
    Entry,
    Stop,
    WorkerCore,
    Write,
)
from orion_streams.model.measured import Usage
from orion_streams.protocol.agent_entries import WorkHead, encode_head

UNREADABLE: dict[str, dict[bytes, bytes]] = {"junk": {b"head": b'{"op":"dance"}'}, "nothing": {}}


class Stage:
    """A core that is driven by words."""

    def __init__(self, slots: int = 1) -> None:
        self.core = WorkerCore(slots, "an engine")
        self.last: dict[str, Entry] = {}

    def hear(self, words: str) -> str:
        """Hand one line's input to the core; its effects in words."""
        verb, _, rest = words.partition(" ")
        core, work_id = self.core, f"{rest.partition(' ')[0]}-0"
        match verb:
            case "read":
                return told(core.receive(self.some(rest)))
            case "notice":
                return told(core.notice(*self.entry(rest)))
            case "take":
                return told(core.take(*self.last[work_id]))
            case "pending":
                unseen, effects = core.catch_up(self.some(rest), set(core.jobs))
                return told(effects + core.receive(unseen))
            case "done":
                return told(core.ended(work_id, Done(Usage(7), {"text": b"answer"})))
            case "fail":
                return told(core.ended(work_id, RunFailedError(rest.split()[1], "node", "it failed")))
            case "stopped":
                return told(core.ended(work_id, CANCELLED))
            case "drain":
                return told(core.drain())
            case "let":  # let go
                return told(core.let_go())
            case "written":
                return told(core.written(work_id))
        return ", ".join(each.removesuffix("-0") for each in core.in_hand)

    def some(self, words: str) -> list[Entry]:
        """Entries, as `entry` makes them, between commas."""
        return [self.entry(each.strip()) for each in words.split(",") if each]

    def entry(self, words: str) -> Entry:
        """An entry from "3 run", "4 cancel 3", "5 junk" or "6 nothing"."""
        number, op, *target = words.split()
        fields = UNREADABLE.get(op)
        if fields is None:
            about = f"{target[0]}-0" if target else ""
            head = WorkHead(op, f"brain/{op}", 1, "m", about)  # type: ignore[arg-type]
            fields = {b"head": encode_head(head)}
        self.last[f"{number}-0"] = f"{number}-0", fields
        return self.last[f"{number}-0"]


def told(effects: list[Effect]) -> str:
    """Effects in words."""
    return ", ".join(in_words(effect) for effect in effects)


def in_words(effect: Effect) -> str:
    """One effect."""
    match effect:
        case Begin(job):
            return f"begin {job.work_id}".removesuffix("-0")
        case Stop(work_id):
            return f"stop {work_id}".removesuffix("-0")
        case Acknowledge(work_id, unreadable):
            return f"ack {work_id}".removesuffix("-0") + " unreadable" * unreadable
        case Write(job, result):
            number = job.work_id.removesuffix("-0")
            return f"write {number} {result.head.op} {result.head.code}".strip()


def lines(script: str) -> Iterator[tuple[str, str]]:
    """Input and effects of each line."""
    for line in script.strip().splitlines():
        given, _, effects = line.partition("->")
        yield given.strip(), effects.strip()
