"""The worker's rules as scripts: what happens on the left, the effects on the right; and its bounds."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from orion_streams.agents import job as job_module
from orion_streams.agents import worker_core
from orion_streams.agents.backend import RunFailedError
from orion_streams.agents.job import MEANINGS, TRANSITIONS, Input, Job, Phase
from orion_streams.agents.worker_core import Acknowledge, Done, Write
from orion_streams.model.measured import Usage
from orion_streams.protocol.agent_entries import WorkHead, encode_head
from tests.agents.worker_stage import Stage, lines

SCRIPTS = {
    "a run has one result, and is acknowledged once that is written": """
        read 1 run                        -> begin 1
        done 1                            -> write 1 completed
        written 1                         -> ack 1
    """,
    "a load has one result, an unload none": """
        read 1 load, 2 unload             -> begin 1, begin 2
        fail 1 model_missing              -> write 1 failed model_missing
        done 2                            -> ack 2
        written 1                         -> ack 1
    """,
    "a run does not wait for a load": """
        read 1 load                       -> begin 1
        read 2 run                        -> begin 2
    """,
    "runs take turns in one slot, in the order of reading; loads take none": """
        read 1 run, 2 run, 3 load, 4 run  -> begin 1, begin 3
        done 3                            -> write 3 completed
        fail 1 ollama_error               -> write 1 failed ollama_error, begin 2
        done 2                            -> write 2 completed, begin 4
    """,
    "what is read after an unload begins when that has ended": """
        read 1 unload, 2 load, 3 run      -> begin 1
        read 4 unload                     -> begin 4
        read 5 load                       ->
        done 1                            -> ack 1, begin 2, begin 3
        fail 4 load_overdue               -> ack 4, begin 5
    """,
    "unloads do not wait for each other, and what follows waits for all": """
        read 1 unload, 2 unload, 3 run    -> begin 1, begin 2
        done 2                            -> ack 2
        fail 1 load_overdue               -> ack 1, begin 3
    """,
    "what waits for an unload is cancelled at once, and the unload goes on": """
        read 1 unload, 2 run, 3 load      -> begin 1
        read 4 cancel 2                   -> write 2 failed cancelled, ack 4
        read 5 cancel 3                   -> write 3 failed cancelled, ack 5
        done 1                            -> ack 1
    """,
    "an unload does not wait for what was read before it": """
        read 1 run, 2 unload, 3 run       -> begin 1, begin 2
        done 2                            -> ack 2
        done 1                            -> write 1 completed, begin 3
    """,
    "work that is read together with its cancel does not begin": """
        read 1 run, 2 cancel 1            -> write 1 failed cancelled, ack 2
        read 3 unload, 4 cancel 3         -> ack 3, ack 4
        notice 5 load                     ->
        notice 6 cancel 5                 ->
        notice 7 cancel 5                 ->
        take 5                            -> write 5 failed cancelled
    """,
    "what waits is cancelled at once": """
        read 1 run, 2 run                 -> begin 1
        read 3 cancel 2                   -> write 2 failed cancelled, ack 3
        done 1                            -> write 1 completed
    """,
    "what runs is stopped, and keeps its slot until it has stopped": """
        read 1 run, 2 run                 -> begin 1
        read 3 cancel 1                   -> stop 1, ack 3
        read 4 cancel 1                   -> ack 4
        stopped 1                         -> write 1 failed cancelled, begin 2
        read 5 load                       -> begin 5
        read 6 cancel 5                   -> stop 5, ack 6
        stopped 5                         -> write 5 failed cancelled
    """,
    "an answer that comes before the stop is the end": """
        read 1 run                        -> begin 1
        read 2 cancel 1                   -> stop 1, ack 2
        done 1                            -> write 1 completed
    """,
    "an unload that is cancelled lets go of what waits for it": """
        read 1 unload, 2 run              -> begin 1
        read 3 cancel 1                   -> stop 1, ack 3
        stopped 1                         -> ack 1, begin 2
    """,
    "a cancel after the end changes nothing": """
        read 1 run                        -> begin 1
        done 1                            -> write 1 completed
        read 2 cancel 1                   -> ack 2
        written 1                         -> ack 1
        read 3 cancel 1, 4 cancel 99      -> ack 3, ack 4
    """,
    "of many copies of a run one begins, and its one end acknowledges all": """
        notice 1 run                      ->
        notice 1 run                      ->
        take 1                            -> begin 1
        take 1                            ->
        read 1 run, 2 run                 ->
        read 2 run                        ->
        read 3 cancel 1                   -> stop 1, ack 3
        read 1 run, 3 cancel 1            -> ack 3
        stopped 1                         -> write 1 failed cancelled, begin 2
        read 1 run                        ->
        written 1                         -> ack 1
    """,
    "work that comes again after its end ends once more as it did": """
        read 1 run                        -> begin 1
        done 1                            -> write 1 completed
        written 1                         -> ack 1
        read 1 run                        -> write 1 completed
        read 1 run, 2 cancel 1            -> ack 2
        in hand                           ->
        written 1                         -> ack 1
        read 3 unload                     -> begin 3
        done 3                            -> ack 3
        read 3 unload                     -> ack 3
    """,
    "an id that comes again with other work is other work": """
        read 1 load                       -> begin 1
        done 1                            -> write 1 completed
        written 1                         -> ack 1
        read 1 run                        -> begin 1
    """,
    "what a former process had is reported, and does not run": """
        pending 1 run, 2 unload           -> write 1 failed agent_restarted, ack 2
        in hand                           ->
        pending 4 cancel 1                -> ack 4
        read 1 run, 5 run                 -> begin 5
        written 1                         -> ack 1
        read 1 run                        -> write 1 failed agent_restarted
    """,
    "at the start nothing that was pending runs, whatever else it is": """
        pending 1 cancel 9, 2 junk, 3 nothing -> ack 1, ack 2 unreadable, ack 3 unreadable
    """,
    "after a cut what nobody saw is run, and what had ended is told again": """
        pending                           ->
        read 1 run, 2 run                 -> begin 1
        done 1                            -> write 1 completed, begin 2
        written 1                         -> ack 1
        pending 1 run, 2 run, 3 load      -> write 1 completed, begin 3
    """,
    "an agent that leaves lets runs go on, and hands back what has not begun": """
        read 1 unload, 2 load             -> begin 1
        drain                             -> write 2 failed agent_leaving
        done 1                            -> ack 1
        read 3 run                        -> write 3 failed agent_leaving
        written 2                         -> ack 2
        written 3                         -> ack 3
        read 3 run                        -> write 3 failed agent_leaving
    """,
    "runs that go on may end well, and nothing follows them": """
        read 1 run, 2 run, 3 run          -> begin 1
        drain                             -> write 2 failed agent_leaving, write 3 failed agent_leaving
        drain                             ->
        done 1                            -> write 1 completed
        in hand                           -> 1, 2, 3
    """,
    "what was read when the agent was told to leave is handed back as it is taken up": """
        notice 1 run                      ->
        notice 2 load                     ->
        notice 3 cancel 2                 ->
        notice 4 unload                   ->
        drain                             ->
        take 1                            -> write 1 failed agent_leaving
        take 2                            -> write 2 failed cancelled
        take 3                            -> ack 3
        take 4                            -> ack 4
    """,
    "what still runs in the end is stopped and handed back, unless it ends or was cancelled": """
        read 1 load, 2 load, 3 load, 4 unload -> begin 1, begin 2, begin 3, begin 4
        read 5 cancel 1                   -> stop 1, ack 5
        drain                             ->
        let go                            -> stop 2, stop 3, stop 4
        let go                            ->
        read 6 cancel 2                   -> ack 6
        stopped 1                         -> write 1 failed cancelled
        stopped 2                         -> write 2 failed agent_leaving
        done 3                            -> write 3 completed
        stopped 4                         -> ack 4
    """,
    "what cannot be read is acknowledged and in nobody's hand": """
        notice 1 junk                     ->
        in hand                           ->
        take 1                            -> ack 1 unreadable
        read 2 nothing, 3 run             -> ack 2 unreadable, begin 3
    """,
    "in hand is what was read and has no written result yet, a cancel never": """
        notice 1 run                      ->
        notice 2 load                     ->
        notice 3 unload                   ->
        notice 4 cancel 9                 ->
        in hand                           -> 1, 2, 3
        take 1                            -> begin 1
        done 1                            -> write 1 completed
        in hand                           -> 1, 2, 3
        written 1                         -> ack 1
        in hand                           -> 2, 3
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_worker_does_what_the_script_says(name: str) -> None:
    """Each input has just the effects on its line, in that order."""
    stage = Stage()
    for given, effects in lines(SCRIPTS[name]):
        assert f"{given} -> {stage.hear(given)}" == f"{given} -> {effects}"


def test_the_scripts_go_through_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every transition is needed, and every phase has a meaning."""
    used: set[tuple[Phase, Input]] = set()

    class Noted(dict[tuple[Phase, Input], Phase]):
        def get(self, key: Any, default: Any = None) -> Any:
            used.add(key)
            return super().get(key, default)

    monkeypatch.setattr(job_module, "TRANSITIONS", Noted(TRANSITIONS))
    for script in SCRIPTS.values():
        stage = Stage()
        for given, _ in lines(script):
            stage.hear(given)
    assert set(TRANSITIONS) - used == set()
    assert set(MEANINGS) == set(Phase)


@pytest.mark.parametrize(("phase", "given"), sorted(set(product(Phase, Input)) - set(TRANSITIONS)))
def test_what_the_table_does_not_have_is_an_error(phase: Phase, given: Input) -> None:
    """An input that cannot come names the work and stops there; the phase stays."""
    job = Job("3-1", WorkHead("run"), phase=phase)
    with pytest.raises(RuntimeError, match=f"work 3-1 is {phase}: {given.name} cannot happen"):
        job.advance(given)
    assert job.phase is phase


def test_results_say_whose_they_are_and_who_made_them() -> None:
    """Head and body of all four kinds, byte for byte."""
    stage = Stage()
    stage.hear("read 1 run, 2 load")
    core, job = stage.core, stage.core.jobs["1-0"]
    told = [core.started(job), core.passed_on(job, {"text": b"an"}), core.passed_on(job, {"text": b"swer"})]
    [end, *_] = core.ended("1-0", Done(Usage(7, 3, total_ms=9, done_reason="stop"), {"text": b"answer"}))
    [failed] = core.ended("2-0", RunFailedError("load_overdue", "node", "too slow"))
    assert isinstance(end, Write)
    assert isinstance(failed, Write)
    whose = b'"request":"brain/run","attempt":1,"work_id":"1-0"'
    assert [(encode_head(each.head), each.body) for each in (*told, end.result, failed.result)] == [
        (b'{"op":"started",' + whose + b',"engine":"an engine"}', {}),
        (b'{"op":"tokens",' + whose + b',"seq":1,"engine":"an engine"}', {"text": b"an"}),
        (b'{"op":"tokens",' + whose + b',"seq":2,"engine":"an engine"}', {"text": b"swer"}),
        (
            b'{"op":"completed",' + whose + b',"engine":"an engine","tokens":7,"prompt_tokens":3,'
            b'"total_ms":9,"done_reason":"stop"}',
            {"text": b"answer"},
        ),
        (
            b'{"op":"failed","request":"brain/load","attempt":1,"work_id":"2-0","engine":"an engine",'
            b'"code":"load_overdue","blame":"node"}',
            {"message": b"too slow"},
        ),
    ]


def test_an_end_that_is_told_again_is_the_same() -> None:
    """Head and body, also when what answers on the node has changed since."""
    stage = Stage()
    stage.hear("read 1 run")
    [first] = stage.core.ended("1-0", Done(Usage(7), {"text": b"answer"}))
    stage.hear("written 1")
    stage.core.engine = "another"
    [again] = stage.core.receive([stage.last["1-0"]])
    assert isinstance(first, Write)
    assert isinstance(again, Write)
    assert again.result == first.result


@pytest.mark.parametrize(("op", "breaks"), [("run", True), ("load", True), ("unload", False)])
def test_a_broken_model_counts_as_gone_until_something_works_with_it(op: str, breaks: bool) -> None:
    """A run or load that broke it puts it on the list, an unload never; any success takes it off."""
    stage, broken = Stage(), [set[str]()]
    for outcome in (
        RunFailedError("stalled", "node", "silence", breaks_model=True),
        RunFailedError("refused", "request", "the model is as it was"),
        Done(),
    ):
        stage.hear(f"read {len(broken)} {op}")
        stage.core.ended(f"{len(broken)}-0", outcome)
        broken.append(set(stage.core.broken))
    gone = {"m"} if breaks else set()
    assert broken == [set(), gone, gone, set()]


def test_what_was_read_is_said_and_what_never_comes_counts_as_read() -> None:
    """`work_read` is the last entry read, whatever it was, also of a former process; it moves on where a
    group was made anew, and stays where there is no group."""
    stage, seen = Stage(), []
    for step in ("pending 1 run", "read 2 junk", "read 3 cancel 1", "read 2 junk"):
        stage.hear(step)
        seen.append(stage.core.work_read)
    assert seen == ["1-0", "2-0", "3-0", "3-0"]
    stage.core.drained("9-1")
    stage.core.drained("")
    assert stage.core.work_read == "9-1"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"op":"dance"}',
        b'{"op":"run","attempt":-1}',
        b'{"op":"run","request":' + b"9" * 400 + b"}",
        b'{"op":"run","request":"\xff"}',
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out(head: bytes) -> None:
    """It is in nobody's hand, is acknowledged, and counts as read; also when it comes again."""
    core = Stage().core
    for _ in range(2):
        assert core.notice("1-0", {b"head": head}) == []
        assert core.in_hand == ()
        assert core.take("1-0", {b"head": head}) == [Acknowledge("1-0", unreadable=True)]
    assert core.work_read == "1-0"


def test_remembered_ends_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are kept, up to both bounds; one that is larger alone is not. What is not remembered ends
    as lost when it comes again, and pushes none out."""
    monkeypatch.setattr(worker_core, "REMEMBERED", 3)
    monkeypatch.setattr(worker_core, "REMEMBERED_BYTES", 100)
    stage = Stage()

    def kept(number: int, size: int, op: str = "run") -> list[str]:
        """The ends that are kept after one more, with an answer of this size."""
        stage.hear(f"read {number} {op}")
        stage.core.ended(f"{number}-0", Done(body={"text": b"x" * size}))
        stage.hear(f"written {number}")
        return [each.removesuffix("-0") for each in stage.core._ends]

    assert [kept(number, 1) for number in range(1, 5)][-1] == ["2", "3", "4"]
    assert stage.hear("read 1 run") == "write 1 failed agent_restarted"
    assert list(stage.core._ends) == ["2-0", "3-0", "4-0"]
    assert kept(5, 98) == ["3", "4", "5"]
    assert kept(6, 2) == ["5", "6"]
    assert kept(7, 101) == []
    assert kept(8, 100) == ["8"]
    assert kept(8, 60, "load") == ["8"]
    assert kept(9, 40) == ["8", "9"]


def test_recognised_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of more than SEEN is forgotten."""
    monkeypatch.setattr(worker_core, "SEEN", 2)
    stage = Stage()
    stage.hear("read 1 cancel 9, 2 cancel 9, 3 cancel 9")
    assert list(stage.core._seen) == ["2-0", "3-0"]
