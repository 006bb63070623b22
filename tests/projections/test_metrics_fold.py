"""What /metrics counts is a fold: the same wherever it is taken up again, each end once, few labels."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams import agents
from orion_streams.agents.ollama_blame import FAULTS
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model import metric_specs as specs
from orion_streams.model.metric_specs import ATTEMPT_CODES, MOST_MODELS, MOST_NODES, OTHER
from orion_streams.model.state import Grid, Installed
from orion_streams.model.vocabulary import AbandonReason, Blame, Mark, RequestKind
from orion_streams.projections import apply
from orion_streams.projections.metrics import (
    BETWEEN,
    Metrics,
    Spread,
    Tally,
    fitting,
    series_of,
    spreads_of,
)
from orion_streams.protocol.requests_replies import CODES
from tests.golden.record import FOLDER, SUFFIX
from tests.grids import HEAVY, MEMORY, MODEL, fails, grid, node
from tests.projections.test_ended_requests import ACCEPTED, ANSWERED, ROUTED, STARTED
from tests.properties import histories
from tests.properties import strategies as make
from tests.properties.test_folding import a_day
from tests.replay.recorded import rows_in

AGENTS = Path(agents.__file__).parent


def counted(some: Grid, events: Iterable[ev.AnyEvent | int], tally: Tally | None = None) -> Tally:
    """Count events that are folded into a grid; a number lets so many ms pass."""
    metrics = Metrics(tally or Tally(), some)
    for event in events:
        if isinstance(event, int):
            some.at_ms, some.server_ms = some.at_ms + event, some.server_ms + event
            continue
        apply(some, event)
        metrics.take(some, event)
    return metrics.tally


def restarted(events: list[ev.AnyEvent], cuts: Iterable[int]) -> Tally:
    """Count with a restart at each cut: nothing stays but the grid and what was saved."""
    some, tally, before = Grid(), Tally(), 0
    for cut in (*sorted(cuts), len(events)):
        saved = msgspec.json.encode(counted(some.copy(), events[before:cut], tally))
        for event in events[before:cut]:
            apply(some, event)
        tally, before = fitting(msgspec.json.decode(saved, type=Tally)), cut
    return tally


@make.MANY
@given(histories.HISTORIES, st.lists(st.integers(0, 40), max_size=3))
def test_a_restart_at_any_point_changes_no_number(events: list[ev.AnyEvent], cuts: list[int]) -> None:
    """Whatever the history: saved, loaded and gone on from the grid, the tally is that of one life."""
    whole = counted(Grid(), events)
    assert restarted(events, [min(cut, len(events)) for cut in cuts]) == whole


@pytest.mark.parametrize("path", sorted(FOLDER.glob(f"*{SUFFIX}")), ids=lambda path: path.name[:15])
def test_a_restart_in_an_incident_changes_no_number(path: Path) -> None:
    """In the recorded logs of real routers, again and again."""
    events = [event_codec.decode(row) for row in rows_in(gzip.decompress(path.read_bytes()))]
    whole = counted(Grid(), events)
    assert whole.counts[specs.REQUESTS.name]
    assert restarted(events, range(0, len(events), 23)) == whole


def test_what_is_lost_or_told_twice_would_be_seen() -> None:
    """The controls: without an event, or with one twice, the numbers differ."""
    events = a_day().log
    whole = counted(Grid(), events)
    end = next(at for at, event in enumerate(events) if isinstance(event, ev.RequestCompleted))
    assert counted(Grid(), events[:end]) != whole
    some = Grid()
    tally = counted(some, events[:end])
    assert counted(some, events[end:], tally) == whole
    assert restarted(events[: end + 1], [end]) != restarted(events[: end + 1] * 2, [end])


@make.MANY
@given(histories.HISTORIES)
def test_labels_are_words_and_names_of_the_grid(events: list[ev.AnyEvent]) -> None:
    """No label is a request, a session or a client; what has no label of its own is `other`."""
    tally = counted(Grid(), events)
    names = {*histories.NODES, *histories.MODELS, OTHER, *specs.OPERATIONS.values(), *specs.TOKEN_TYPES}
    words = names.union(*(row for rows in specs.WORDS.values() for row in rows.values()))
    keys = [key for series in (tally.counts | tally.spreads).values() for key in series]
    assert {label for key in keys for label in key.split(BETWEEN)} <= {*words, ""}
    for name, series in tally.counts.items():
        spec = next(each for each in specs.COUNTERS if each.name == name)
        for key in series_of(tally, spec):
            assert_bounded(spec, key)
        assert set(series) <= set(series_of(tally, spec))


def assert_bounded(spec: specs.Metric, key: str) -> None:
    """Each label of a series is one of those that it may be."""
    labels = dict(zip(spec.labels, key.split(BETWEEN), strict=True))
    for label, choices in specs.WORDS.get(spec.name, {}).items():
        assert labels[label] in {*choices, OTHER}


def test_a_label_without_bounds_would_be_seen() -> None:
    """The control of the law above."""
    assert_bounded(specs.REQUESTS, f"{MODEL}{BETWEEN}done")
    assert fails(assert_bounded, specs.REQUESTS, f"{MODEL}{BETWEEN}brain/1")


def test_each_request_and_each_attempt_ends_once() -> None:
    """In a day of answers, failures, cancels and results that come late, as the log itself counts them."""
    world = a_day()
    world.work_all()
    tally = counted(Grid(), world.log)
    ends = Counter(type(event) for event in world.log)
    outcomes: Counter[str] = Counter()
    for key, value in tally.counts[specs.REQUESTS.name].items():
        outcomes[key.partition(BETWEEN)[2]] += value
    assert outcomes == {"done": ends[ev.RequestCompleted], "cancelled": ends[ev.RequestCancelled]}
    assert not world.grid.open
    attempts = tally.counts[specs.ATTEMPTS.name]
    assert sum(attempts.values()) == ends[ev.RequestRouted] > outcomes["done"]
    waits = tally.spreads[specs.WAIT.name][""].buckets
    assert sum(waits) >= sum(outcomes.values())


def test_an_answer_is_measured() -> None:
    """Durations in ms, the time of a token in µs, by operation and model; the load by its node."""
    some = grid(node("n"))
    tally = counted(some, [ACCEPTED, 300, ROUTED, 1_200, STARTED, 5_000, ANSWERED])
    labels = f"chat{BETWEEN}{MODEL}"
    sums = {name: {key: row.sum for key, row in series.items()} for name, series in tally.spreads.items()}
    assert sums == {
        specs.DURATION.name: {labels: 6_500},
        specs.FIRST_TOKEN.name: {labels: 1_500 + 2_300},
        specs.PER_TOKEN.name: {labels: 2_700_000 // 40},
        specs.TOKENS.name: {f"{labels}{BETWEEN}input": 4, f"{labels}{BETWEEN}output": 40},
        specs.WAIT.name: {"": 1_500},
        specs.LOAD.name: {"n": 1_900},
    }
    assert tally.counts == {
        specs.REQUESTS.name: {f"{MODEL}{BETWEEN}done": 1},
        specs.ATTEMPTS.name: {f"n{BETWEEN}answered": 1},
    }


SHORT = replace(ANSWERED, total_ms=1, first_token_ms=1, tokens=1, prompt_tokens=1, decode_ms=1, load_ms=1)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, set()),
        ({"first_token_ms": 0}, {specs.FIRST_TOKEN}),
        ({"tokens": 0}, {specs.PER_TOKEN}),
        ({"decode_ms": 0}, {specs.PER_TOKEN}),
        ({"load_ms": 0}, {specs.LOAD}),
        ({"cold": False}, {specs.LOAD}),
    ],
)
def test_what_was_not_measured_is_not_counted(changes: dict[str, int], missing: set[specs.Metric]) -> None:
    """An older log has no first token, an embedding no tokens, a warm model no load."""
    tally = counted(grid(node("n")), [ACCEPTED, ROUTED, STARTED, 1, replace(SHORT, **changes)])
    assert set(tally.spreads) == {each.name for each in set(specs.HISTOGRAMS) - missing}


@pytest.mark.parametrize(
    ("prompt_tokens", "tokens", "kinds"),
    [(1, 1, ["input", "output"]), (1, 0, ["input"]), (0, 1, ["output"])],
)
def test_tokens_that_there_are_not_are_no_zeros(prompt_tokens: int, tokens: int, kinds: list[str]) -> None:
    """A prompt that was cached is not told, and vectors are no tokens."""
    end = replace(SHORT, prompt_tokens=prompt_tokens, tokens=tokens)
    series = counted(grid(node("n")), [ACCEPTED, ROUTED, STARTED, end]).spreads[specs.TOKENS.name]
    assert [key.split(BETWEEN)[-1] for key in series] == kinds


def test_a_node_whose_clock_runs_fast_makes_nothing_negative() -> None:
    """It says that it took longer than the request is old."""
    tally = counted(grid(node("n")), [ACCEPTED, ROUTED, STARTED, 4, ANSWERED])
    assert tally.spreads[specs.FIRST_TOKEN.name][f"chat{BETWEEN}{MODEL}"].sum == 2_300


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (ev.RequestFailed("brain/q", "refused"), "refused"),
        (ev.RequestFailed("brain/q", "something new"), OTHER),
    ],
)
def test_an_error_has_its_code(end: ev.RequestFailed, code: str) -> None:
    """Beside its outcome; it is no answer, and measures nothing."""
    tally = counted(grid(node("n")), [ACCEPTED, 10, end])
    assert tally.counts == {specs.REQUESTS.name: {f"{MODEL} error": 1}, specs.ERRORS.name: {code: 1}}
    assert set(tally.spreads) == {specs.WAIT.name}


def test_an_operation_that_is_not_known_is_another() -> None:
    """As of a newer version."""
    asked = replace(ACCEPTED, kind=RequestKind("paint"))
    tally = counted(grid(node("n")), [asked, ROUTED, STARTED, ANSWERED])
    assert list(tally.spreads[specs.DURATION.name]) == [f"{OTHER}{BETWEEN}{MODEL}"]


FAILED = ev.AttemptFailed("brain/q", 1, "n", "9-0", "stream_cut", Blame.NODE)
ABANDONED = ev.AttemptAbandoned("brain/q", 1, "n", "9-0", AbandonReason.SILENT)


@pytest.mark.parametrize(
    ("end", "result", "why"),
    [
        (FAILED, "failed", "stream_cut"),
        (replace(FAILED, code="something new"), "failed", OTHER),
        (ABANDONED, "abandoned", "silent"),
        (ev.RequestCancelled("brain/q"), "cancelled", ""),
        (ev.RequestExpired("brain/q"), "cancelled", ""),
    ],
)
def test_an_attempt_without_an_answer_has_its_reason(end: ev.AnyEvent, result: str, why: str) -> None:
    """An agent's code or the router's reason; a result that comes after it counts no second time."""
    late = ev.AttemptEnded("brain/q", 1, "n", "9-0", "completed")
    tally = counted(grid(node("n")), [ACCEPTED, ROUTED, 700, STARTED, end, late])
    assert tally.counts[specs.ATTEMPTS.name] == {f"n{BETWEEN}{result}": 1}
    expected = {f"n{BETWEEN}{why}": 1} if why else {}
    assert tally.counts.get(specs.ATTEMPT_FAILURES.name, {}) == expected
    assert tally.spreads[specs.WAIT.name][""].sum == 700


def test_each_wait_counts_once() -> None:
    """To the begin of the run; again from the failure on; to the end of a request that nothing begins."""
    some = grid(node("n"))
    again = replace(ROUTED, attempt=2, work_id="10-0")
    expired, cancelled = ev.RequestExpired("brain/q"), ev.RequestCancelled("brain/q")
    waits: list[ev.AnyEvent | int] = [ACCEPTED, 100, ROUTED, 200, STARTED, 1_000, FAILED]
    wait = counted(some, [*waits, 30, again, 40, expired]).spreads[specs.WAIT.name][""]
    assert (sum(wait.buckets), wait.sum) == (2, 300 + 70)
    never = counted(grid(node("n")), [ACCEPTED, 900, cancelled]).spreads[specs.WAIT.name]
    assert never[""].sum == 900


def test_a_wait_ends_when_the_run_began() -> None:
    """Not when that was told; of a run whose begin was never told, by how long the node had it."""
    told_late = counted(grid(node("n")), [ACCEPTED, ROUTED, 900, replace(STARTED, age_ms=200)])
    assert told_late.spreads[specs.WAIT.name][""].sum == 700
    never_told = counted(grid(node("n")), [ACCEPTED, ROUTED, 9_000, ANSWERED])
    assert never_told.spreads[specs.WAIT.name][""].sum == 4_000


def test_an_upper_bound_belongs_to_its_bucket() -> None:
    """As Prometheus' `le` says it; what lies beyond the last has a bucket of its own."""
    tally = Tally()
    for value_ms in (100, 101, 1_280_000, 1_280_001, -5):
        tally.observe(specs.WAIT, value_ms)
    buckets = tally.spreads[specs.WAIT.name][""].buckets
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)
    assert tally.spreads[specs.WAIT.name][""].sum == 201 + 2_560_001


def test_models_have_few_labels() -> None:
    """Those that a node has, the first MOST_MODELS of them; whatever somebody asks for has none."""
    many = {f"m{n}:1b": Installed("a", 1) for n in range(MOST_MODELS + 5)}
    some = grid(node("n", installed=many))
    tally = Tally()
    assert tally.model(some, "made-up:1b") == OTHER
    labels = [tally.model(some, name) for name in (*many, *many)]
    assert labels == [*many][:MOST_MODELS] + [OTHER] * 5 + [*many][:MOST_MODELS] + [OTHER] * 5
    assert tally.model(grid(), "m0:1b") == "m0:1b"  # it keeps its own when no node has it any more


def test_nodes_have_few_labels() -> None:
    """Those of the grid, at most MOST_NODES."""
    names = [f"n{number:03}" for number in range(MOST_NODES + 2)]
    some = grid(*(node(name) for name in names))
    tally = Metrics(Tally(), some).tally
    assert tally.nodes == names[:MOST_NODES]
    assert tally.node(some, names[-1]) == tally.node(some, "stranger") == OTHER


def test_every_code_has_its_word() -> None:
    """Codes of the agents, as their source names them, the router's reasons, and those of the contract."""
    source = "".join(path.read_text(encoding="utf-8") for path in AGENTS.glob("*.py"))
    raised = set(re.findall(r'RunFailedError\(\s*"(\w+)"', source)) - {"load_overdue"}
    assert len(raised) > 10
    assert raised | {row.code for row in FAULTS} | set(AbandonReason) == set(ATTEMPT_CODES)
    assert len(set(ATTEMPT_CODES)) == len(ATTEMPT_CODES)
    assert set(specs.REJECTIONS) | set(specs.ERROR_CODES) == set(CODES)
    assert set(specs.OPERATIONS) == set(RequestKind)


def test_other_events_are_counted_by_node() -> None:
    """Marks, breakers, loads, unloads, another boot of an agent, what was rejected."""
    some = grid(node("n", boot="b1"))
    load = ev.LoadEnded("n", HEAVY, "5-0", ok=True, load_ms=4_000)
    tally = counted(
        some,
        [
            ev.NodeBackedOff("n", Mark.HOT, 1, 1), ev.BreakerOpened("n", 3, 9),
            ev.UnloadOrdered("n", MODEL), load, replace(load, ok=False),
            ev.RequestRejected("brain/q", "queue_full"),
            ev.InputRejected("requests:brain", "1-0", "strange"),
            *(sample_of(boot) for boot in ("b1", "b2", "b2")),
        ],
    )  # fmt: skip
    rows = {name.removeprefix("orion_").removesuffix("_total"): row for name, row in tally.counts.items()}
    assert rows == {
        "backoffs": {"n hot": 1}, "breaker_openings": {"n": 1}, "unloads_ordered": {"n relief": 1},
        "planned_loads": {"n ok": 1, "n failed": 1}, "rejected": {"queue_full": 1, OTHER: 1},
        "agent_restarts": {"n": 1},
    }  # fmt: skip
    assert tally.spreads[specs.LOAD.name]["n"].sum == 4_000
    assert tally.models == [HEAVY]


def test_a_first_boot_is_no_restart() -> None:
    """Of a node that was never heard."""
    tally = counted(grid(node("n", boot="")), [sample_of("b1"), sample_of("b2")])
    assert tally.counts == {specs.RESTARTS.name: {"n": 1}}


def test_models_in_memory_have_their_labels_from_the_begin() -> None:
    """Before anybody asks for them."""
    assert Metrics(Tally(), grid(node("n", resident=MEMORY))).tally.models == sorted(MEMORY)


def sample_of(boot: str) -> ev.NodeSampled:
    """A health entry of this boot."""
    return ev.NodeSampled("n", boot, 1, 50_000, 1, 2, 0)


def test_series_that_may_come_are_there_as_zeros() -> None:
    """Else the first of its kind is no increase; why attempts fail has too many words for that."""
    tally = Metrics(Tally(), grid(node("n"))).tally
    assert series_of(tally, specs.BACKOFFS) == {"n hot": 0, "n ram": 0}
    tally.count(specs.BACKOFFS, "n", "ram")
    assert series_of(tally, specs.BACKOFFS) == {"n hot": 0, "n ram": 1}
    assert spreads_of(tally, specs.WAIT) == {"": Spread([0] * 14)}
    assert spreads_of(tally, specs.LOAD) == {"n": Spread([0] * 11)}
    assert spreads_of(tally, specs.DURATION) == {}
    tally.observe(specs.WAIT, 1)
    assert spreads_of(tally, specs.WAIT) == {"": Spread([1] + [0] * 13, 1)}
    assert series_of(tally, specs.ATTEMPT_FAILURES) == {}
    assert series_of(tally, specs.REQUESTS) == {}
    tally.models.append(MODEL)
    assert series_of(tally, specs.REQUESTS) == {f"{MODEL} {outcome}": 0 for outcome in specs.OUTCOMES}


def test_what_another_version_saved_is_kept_where_it_fits() -> None:
    """Series with other labels or buckets begin anew; the others go on."""
    good = Spread([0] * (len(specs.WAIT.bounds) + 1))
    tally = Tally(
        counts={"orion_gone_total": {"n": 1}, specs.REQUESTS.name: {"m done": 2, "m": 1, "m done x": 1}},
        spreads={specs.WAIT.name: {"": good}, specs.LOAD.name: {"n": Spread([1, 2])}, "gone": {}},
    )
    assert fitting(tally) == Tally(
        counts={specs.REQUESTS.name: {"m done": 2}},
        spreads={specs.WAIT.name: {"": good}, specs.LOAD.name: {}},
    )
