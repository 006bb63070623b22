"""What was before the gateway came is added once somebody looks; and what a listener keeps of a log."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from orion_streams.agents import page_history
from orion_streams.agents.page_history import History
from orion_streams.agents.past_messages import Bounds, Question, Scanned
from orion_streams.agents.recent_listener import RecentListener
from orion_streams.gateway.page_rows import Tick
from orion_streams.gateway.refusal import Refusal
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.projections import apply, fold
from orion_streams.protocol.commit_builder import LoggedGrid
from tests.contract.contract_grid import stop
from tests.gateway.test_page_recent import RULES, Told, head
from tests.helpers import eventually

EARLY = Tick(2, 1, "failed", "one", "one failed")


class Stage:
    """A history between stand-ins: a log that begins before the listener does."""

    def __init__(self) -> None:
        before: list[ev.AnyEvent] = [head(0), RULES, ev.NodeReturned("one")]
        self.rows = msgspec.structs.replace(Told().tell(*before).recent.rows(), since=2)
        self.folded, self.loaded, self.listener = fold(Grid(), before), asyncio.Event(), RecentListener()
        self.loaded.set()
        self.listener.begin(LoggedGrid(self.folded))
        self.asked: list[str] = []
        self.refusals, self.pieces, self.tabs, self.resets = 0, 2, 1, 0
        self.history = History(self, self, self.listener, self)  # type: ignore[arg-type]

    async def ask(self, question: Question) -> bytes:
        """As the worker for the past."""
        self.asked.append(question.op)
        if self.refusals:
            self.refusals -= 1
            raise Refusal(503, "away")
        match question.op:
            case "bounds":
                return msgspec.msgpack.encode(Bounds(1, 3, 7, 9))
            case "recent":
                return msgspec.msgpack.encode(self.rows)
        self.pieces -= 1
        return msgspec.msgpack.encode(Scanned([EARLY], self.pieces <= 0))

    def reset(self) -> None:
        """As the live stream."""
        self.resets += 1


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses."""
    for pause in ("PAUSE_S", "AGAIN_S", "BOUNDS_S"):
        monkeypatch.setattr(page_history, pause, 0.0)


async def turns(number: int) -> None:
    """Let everything that is ready run, so many times: what does not happen by then does not happen."""
    for _ in range(number):
        had = asyncio.Event()
        asyncio.get_running_loop().call_soon(had.set)
        await had.wait()


async def test_nothing_is_read_until_somebody_looks() -> None:
    """Then where the log begins, the last minutes, and the whole log piece by piece."""
    stage = Stage()
    task = asyncio.create_task(stage.history.run())
    await turns(20)
    assert stage.asked == []
    assert (stage.history.timeline().complete, stage.listener.recent.since) == (False, 3)
    stage.history.ask()
    await eventually(lambda: stage.history.timeline().complete, "all is known")
    assert stage.asked == ["bounds", "recent", "scan", "scan"]
    found = stage.history.timeline()
    assert (found.first, found.last, found.from_ms, found.ticks) == (1, 3, 7, [EARLY])
    assert [each.text for each in stage.listener.recent.decisions] == [
        "the rules of revision 1 are in force", "one is back",
    ]  # fmt: skip
    assert stage.resets == 1, "who looks already is told"
    stage.history.ask()
    await eventually(lambda: len(stage.asked) > 4, "it looks where the log begins")
    assert stage.asked[4:] == ["bounds"]
    await stop([task])


@pytest.mark.parametrize("tabs", [0, 1])
async def test_what_fails_is_tried_again_while_somebody_looks(tabs: int) -> None:
    """Not for ever, if nobody does."""
    stage = Stage()
    stage.refusals, stage.tabs = 2, tabs
    task = asyncio.create_task(stage.history.run())
    stage.history.ask()
    if tabs:
        await eventually(lambda: stage.history.timeline().complete, "all is known")
    else:
        await eventually(lambda: stage.asked, "it was tried")
        await turns(20)
        assert (stage.asked, stage.history.timeline().complete) == (["bounds"], False)
    await stop([task])


async def test_a_log_that_does_not_go_on_is_read_anew() -> None:
    """After a gap, a lost tail, or for another log, once somebody looks again."""
    stage = Stage()
    task = asyncio.create_task(stage.history.run())
    stage.history.ask()
    await eventually(lambda: stage.history.timeline().complete, "all is known")
    stage.listener.begin(LoggedGrid(msgspec.structs.replace(stage.folded, position=90)))
    assert not stage.history.timeline().complete
    stage.pieces = 1
    stage.history.ask()
    await eventually(lambda: stage.history.timeline().complete, "it is known again")
    await stop([task])


def test_another_log_at_the_same_position_is_another_one() -> None:
    """Its running hash says so; the control: with the same one all stays."""
    told: list[int] = []
    listener = RecentListener(lambda: told.append(1))
    state = LoggedGrid(Grid(), b"1" * 16)
    listener.begin(state)
    for event in (head(0), RULES):
        apply(state.grid, event)
        listener.take(state.grid, event)
    listener.begin(LoggedGrid(state.grid, b"1" * 16))
    assert (len(listener.recent.decisions), len(told)) == (1, 1)
    listener.begin(LoggedGrid(state.grid, b"2" * 16))
    assert (len(listener.recent.decisions), len(told)) == (0, 2)
    assert listener.position == 2


def test_questions_are_what_the_worker_takes() -> None:
    """A frame of them comes back as it was."""
    any_question: Any = Question(op="past", ms=7, aliases={"a": "b"})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(any_question), type=Question) == any_question
