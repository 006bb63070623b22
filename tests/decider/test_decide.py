"""decide(): placements, an Ollama that is away and what is remembered of closed requests."""

from __future__ import annotations

from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.state import Failure
from orion_streams.model.vocabulary import Blame, Code
from orion_streams.projections import evolve, fold
from tests.grids import (
    AT_MS,
    DISK,
    FENCE,
    HEAVY,
    MEMORY,
    MODEL,
    POLICY,
    grid,
    holding,
    kinds,
    node,
    request,
    sample,
)


def test_a_queue_spills_over_when_that_is_faster() -> None:
    """The warm node gets the first ones, and a cold one a later one, as soon as waiting costs more."""
    rows = {f"brain/q{n}": request(accepted=n) for n in range(6)}
    answers = decide(grid(node("warm", resident=MEMORY), node("cold"), open_requests=rows))
    routed = {answer.node for answer in answers if isinstance(answer, ev.RequestRouted)}
    assert routed == {"warm", "cold"}


def test_requests_without_a_node_do_not_starve_others() -> None:
    """However many wait for a model that has no node, one behind them that has a node goes."""
    stuck = {"model": "absent:1b", "deferred": "no_node"}
    nowhere = {f"brain/q{n}": request(accepted=n, **stuck) for n in range(400)}
    rows = {**nowhere, "brain/last": request(accepted=999, deferred="busy")}
    silent = node("silent", heard_ms=None)
    answers = decide(grid(node("n"), silent, open_requests=rows))
    assert [answer.request for answer in answers if isinstance(answer, ev.RequestRouted)] == ["brain/last"]


def test_an_unreachable_ollama_costs_no_attempts() -> None:
    """A node whose Ollama is away gets nothing until health knows its models again, and what failed
    there fails no request, however often."""
    unreachable = Failure("n", Code.OLLAMA_UNREACHABLE, Blame.NODE)
    waiting = request(failures=(unreachable,) * 10)
    away = evolve(
        grid(node("n"), open_requests={"brain/q1": replace(waiting, work_id=FENCE, node="n")}),
        ev.AttemptFailed("brain/q1", 1, "n", FENCE, Code.OLLAMA_UNREACHABLE, Blame.NODE),
    )
    assert kinds(decide(away)) == ["request.deferred"]
    assert len(away.open["brain/q1"].failures) == 11
    back = evolve(away, sample("n"))
    assert kinds(decide(back)) == ["request.routed"]


def test_a_long_queue_for_one_model_does_not_starve_another() -> None:
    """Beyond `max_scan` waiting requests of one model, another model's request still finds its node."""
    queue = {f"brain/q{n}": request(accepted=n, model=HEAVY, deferred="busy") for n in range(400)}
    rows = {**queue, "brain/last": request(accepted=999, deferred="busy")}
    worker = node("worker", assignments={"5-0": holding(HEAVY)}, installed={HEAVY: DISK[HEAVY]})
    master = node("master", installed={MODEL: DISK[MODEL]})
    answers = decide(grid(worker, master, open_requests=rows))
    assert [answer.request for answer in answers if isinstance(answer, ev.RequestRouted)] == ["brain/last"]


def test_a_busy_client_makes_no_other_forgotten() -> None:
    """Each client has `dedupe_keep` remembered ids of its own, the oldest go first."""
    after = grid(node("n"))
    after.policy = replace(POLICY, dedupe_keep=3)
    keys = ["brain/q", *(f"cli/q{n}" for n in range(5))]
    after.open = {key: request() for key in keys}
    after = fold(after, (ev.RequestCancelled(key, reply_id="1-0") for key in keys))
    after = evolve(after, ev.Committed(2, AT_MS, 0, True, ""))
    assert list(after.closed["brain"]) == ["brain/q"]
    assert list(after.closed["cli"]) == ["cli/q2", "cli/q3", "cli/q4"]
