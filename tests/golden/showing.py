"""What each incident has to show: that its recording is worth its name."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from orion_streams.model import events as ev
from tests.golden.record import FOLDER, SUFFIX, comment_of, text_of
from tests.golden.scene import MASTER, WORKER

Events = list[ev.AnyEvent]


def of_kind(events: Events, kind: type[Any]) -> list[Any]:
    """All events of a kind, in order."""
    return [event for event in events if isinstance(event, kind)]


def shows_thermal_runaway(events: Events) -> None:
    """Out because it was hot, a run given up above the critical mark, back again, and used again."""
    [out] = of_kind(events, ev.NodeBackedOff)
    [back] = of_kind(events, ev.NodeReturned)
    assert (out.node, out.reason) == (back.node, "hot") == (WORKER, "hot")
    assert [each.reason for each in of_kind(events, ev.AttemptAbandoned)] == ["critical"]
    between = events[events.index(out) : events.index(back)]
    assert {each.node for each in of_kind(between, ev.RequestRouted)} == {MASTER}
    assert WORKER in {each.node for each in of_kind(events[events.index(back) :], ev.RequestRouted)}


def shows_ram_squeeze(events: Events) -> None:
    """Out for its memory, told to unload one model after the other, and back when they were gone."""
    [out] = of_kind(events, ev.NodeBackedOff)
    [back] = of_kind(events, ev.NodeReturned)
    assert (out.node, out.reason, back.node) == (WORKER, "ram", WORKER)
    between = events[events.index(out) : events.index(back)]
    told = [each.model for each in of_kind(between, ev.UnloadOrdered) if each.reason == "relief"]
    gone = [each.model for each in of_kind(between, ev.ModelUnloaded)]
    assert len(told) == 2
    assert told == gone


def shows_node_death(events: Events) -> None:
    """An attempt that had begun is given up, and the request is answered by another on another node."""
    lost = of_kind(events, ev.AttemptAbandoned)
    assert {(each.node, each.reason) for each in lost} == {(WORKER, "silent")}
    begun = {each.work_id for each in of_kind(events, ev.RequestStarted)}
    streaming = next(each for each in lost if each.request == "brain/q6")
    assert streaming.work_id in begun
    answered = {each.request: each for each in of_kind(events, ev.RequestCompleted)}
    assert all(
        (answered[each.request].node, answered[each.request].attempt) == (MASTER, 2) for each in lost
    )
    outcomes = [each.outcome for each in of_kind(events, ev.AttemptEnded)]
    assert "agent_restarted" in outcomes
    told = text_of(FOLDER / f"node-death-mid-stream{SUFFIX}").read_text(encoding="utf-8")
    assert "token restarted token" in comment_of(told).replace("\n# ", " ")


def shows_two_routers(events: Events) -> None:
    """Commits without a gap, no attempt routed twice, one end each; both took over, some were refused."""
    heads = of_kind(events, ev.Committed)
    assert [each.number for each in heads] == list(range(1, len(heads) + 1))
    routed = of_kind(events, ev.RequestRouted)
    assert len({(each.request, each.attempt) for each in routed}) == len(routed)
    assert len({each.work_id for each in routed}) == len(routed)
    ends = Counter(each.request for each in of_kind(events, ev.RequestCompleted))
    assert set(ends.values()) == {1}
    assert ends.keys() == {each.request for each in of_kind(events, ev.RequestAccepted)}
    assert sum(not each.decided for each in heads[3:]) == 2
    told = comment_of(text_of(FOLDER / f"two-routers-racing{SUFFIX}").read_text(encoding="utf-8"))
    counts = re.findall(r"router: (\d+) commits written, (\d+) refused", told.replace("\n# ", " "))
    written, refused = ([int(each[n]) for each in counts] for n in range(2))
    assert len(counts) == 2
    assert sum(written) == len(heads)
    assert min(written) > 10
    assert sum(refused) > 5


def shows_partition(events: Events) -> None:
    """Given up as silent; the same attempt's answer comes later and changes nothing."""
    lost = {each.work_id: each for each in of_kind(events, ev.AttemptAbandoned)}
    assert {(each.node, each.reason) for each in lost.values()} == {(WORKER, "silent")}
    late = of_kind(events, ev.AttemptEnded)
    assert "completed" in {each.outcome for each in late}
    assert {each.work_id for each in late} == set(lost)
    answered = {each.request: each.attempt for each in of_kind(events, ev.RequestCompleted)}
    assert all(answered[each.request] == 2 for each in lost.values())
    at = {each.work_id: events.index(each) for each in late}
    done = {each.request: events.index(each) for each in of_kind(events, ev.RequestCompleted)}
    assert all(at[each.work_id] > done[each.request] for each in late)


def shows_thrash(events: Events) -> None:
    """Each model comes and goes again and again, and nearly each run loads."""
    came = Counter(each.model for each in of_kind(events, ev.ModelLoaded))
    went = Counter(each.model for each in of_kind(events, ev.ModelUnloaded))
    assert len(came) == len(went) == 2
    assert min([*came.values(), *went.values()]) >= 6
    assert {each.reason for each in of_kind(events, ev.UnloadOrdered)} == {"room"}


def shows_clock_jump(events: Events) -> None:
    """The server's clock jumps by an hour four times, the grid's never; what expires had its time."""
    heads = of_kind(events, ev.Committed)
    steps = [after.server_ms - before.server_ms for before, after in itertools.pairwise(heads)]
    assert [round(step / 3_600_000) for step in steps if abs(step) > 60_000] == [1, -1, -1, 1]
    expired = of_kind(events, ev.RequestExpired)
    assert [each.request for each in expired] == ["brain/short"]
    assert len(of_kind(events, ev.RequestCompleted)) == len(of_kind(events, ev.RequestAccepted)) - 1


def shows_sick_ollama(events: Events) -> None:
    """Failed there, answered elsewhere; a breaker that opens, a probe that closes it; loads by the plan."""
    failed = of_kind(events, ev.AttemptFailed)
    assert {(each.node, each.code) for each in failed} == {(WORKER, "ollama_error")}
    answered = {each.request: each.node for each in of_kind(events, ev.RequestCompleted)}
    assert {answered[each.request] for each in failed} == {MASTER}
    opened, closed = of_kind(events, ev.BreakerOpened), of_kind(events, ev.BreakerClosed)
    assert {each.node for each in opened + closed} == {WORKER}
    assert events.index(opened[-1]) < events.index(closed[-1])
    ordered = {each.work_id for each in of_kind(events, ev.LoadOrdered)}
    assert ordered
    assert ordered == {each.work_id for each in of_kind(events, ev.LoadEnded) if each.ok}


def shows_poison(events: Events) -> None:
    """Every input stream's rejected entries, an unknown model, a refused request; all others answered."""
    rejected = of_kind(events, ev.InputRejected)
    assert {each.stream.partition(":")[0] for each in rejected} == {"requests", "results", "health"}
    assert {each.code for each in rejected} >= {"bad_utf8", "bad_field", "bad_json", "bad_id", "too_large"}
    assert [each.code for each in of_kind(events, ev.RequestRejected)] == ["unknown_model"]
    assert [each.code for each in of_kind(events, ev.RequestFailed)] == ["refused"]
    assert len({each.node for each in of_kind(events, ev.AttemptFailed)}) == 2
    assert len(of_kind(events, ev.RequestCompleted)) == len(of_kind(events, ev.RequestAccepted)) - 1 == 7
    assert len(of_kind(events, ev.RequestResent)) == 1


def shows_reboots(events: Events) -> None:
    """All are answered, and none begins twice that was not moved; nothing goes to who rests, and a rest
    ends as it was to. What is asked while one is quiet and the other drained waits."""
    rests = [(type(each).__name__, each.node) for each in events if isinstance(each, RESTS)]
    assert rests == [
        ("NodeDrained", WORKER), ("NodeResumed", WORKER), ("NodeDrained", MASTER), ("NodeResumed", MASTER),
        ("NodeDrained", WORKER), ("NodeResumed", WORKER),
    ]  # fmt: skip
    assert [each.by for each in of_kind(events, ev.NodeResumed)] == ["cli", "", "cli"]
    assert [each.code for each in of_kind(events, ev.InputRejected)] == ["last_node"]
    assert [each.offset_s for each in of_kind(events, ev.ZoneChanged)] == [3_600]
    moved = of_kind(events, ev.AttemptAbandoned)
    assert {each.reason for each in moved} == {"drained"}
    assert {each.node for each in moved} == {WORKER}
    begun = Counter(each.request for each in of_kind(events, ev.RequestStarted))
    again = Counter(each.request for each in moved)
    assert all(number <= 1 + again[request] for request, number in begun.items())
    answered = {each.request for each in of_kind(events, ev.RequestCompleted)}
    assert answered == {each.request for each in of_kind(events, ev.RequestAccepted)}
    resting: set[str] = set()
    for each in events:
        if isinstance(each, RESTS):
            (resting.add if isinstance(each, ev.NodeDrained) else resting.discard)(each.node)
        assert not (isinstance(each, ev.RequestRouted) and each.node in resting)
    late = [each for each in of_kind(events, ev.RequestDeferred) if each.request.startswith("brain/late")]
    assert {found.filter for each in late for found in each.verdicts} >= {"quiet", "drained"}


RESTS = (ev.NodeDrained, ev.NodeResumed)
SHOWS: dict[str, Callable[[Events], None]] = {
    "thermal-runaway": shows_thermal_runaway,
    "ram-squeeze": shows_ram_squeeze,
    "node-death-mid-stream": shows_node_death,
    "two-routers-racing": shows_two_routers,
    "partition": shows_partition,
    "thrash": shows_thrash,
    "clock-jump": shows_clock_jump,
    "sick-ollama": shows_sick_ollama,
    "reboots": shows_reboots,
    "poison": shows_poison,
}
