"""What the collector keeps of a log, against the log itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from msgspec import structs

from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import LogError
from orion_streams.eventlog.loader import fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter, Mark, WaitKind
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.incident import Collector, Incident, collect
from orion_streams.replay.incident_facts import Kept
from orion_streams.replay.page_data import MAX_NODES, pack
from orion_streams.replay.render_page import render
from tests.cluster.cluster_grid import Cluster
from tests.cluster.one_run import run_to_rest, undisturbed
from tests.conftest import MemoryStore
from tests.grids import fails, sample
from tests.helpers import Agent, ask, settle
from tests.properties.histories import HISTORIES
from tests.replay.decided import Row, chunks
from tests.replay.logs import (
    MASTER,
    MODEL,
    START_MS,
    WORKER,
    Log,
    accepted,
    beats,
    completed,
    failed,
    recorded,
    routed,
    started,
)

VERDICTS = (
    Verdict(node=MASTER, filter=Filter.HOT, value=75_100, limit=75_000),
    Verdict(node=WORKER, cost_ms=900, load_ms=400, decode_ms=500),
)
FAULTS = frozenset(
    {"kill_agent", "cut_agent", "ollama_cut", "ollama_away", "heat", "kill_router", "cancel"}
)


def whole(rows: list[Row]) -> Incident:
    """The incident in a whole log."""
    return collect(LoggedGrid(Grid()), chunks(rows), "a log")


def faulty(seed: int) -> list[Row]:
    """The log of a simulated cluster in which things go wrong."""
    with undisturbed():
        cluster = Cluster(seed, 200, FAULTS)
        assert run_to_rest(cluster)
    return list(enumerate(cluster.server.journal.log, 1))


def agrees(rows: list[Row], incident: Incident) -> None:
    """The counts of an incident are those of its log."""
    events = [event_codec.decode(raw) for _, raw in rows]
    kinds = [type(event) for event in events]
    counts = incident.counts
    assert incident.events == len(rows) == incident.end.position
    assert counts.accepted == kinds.count(ev.RequestAccepted)
    assert counts.ended.get("done", 0) == kinds.count(ev.RequestCompleted)
    assert counts.ended.get("error", 0) == kinds.count(ev.RequestFailed)
    assert counts.ended.get("expired", 0) == kinds.count(ev.RequestExpired)
    assert counts.ended.get("cancelled", 0) == kinds.count(ev.RequestCancelled)
    assert counts.accepted == counts.open + sum(counts.ended.values())
    assert incident.found["attempts"] == len(incident.attempts) == kinds.count(ev.RequestRouted)
    assert incident.found["deferrals"] == len(incident.deferrals) == kinds.count(ev.RequestDeferred)
    assert sum(each.samples for each in incident.nodes) == kinds.count(ev.NodeSampled)
    assert len(incident.trips) == kinds.count(ev.BreakerOpened)
    hottest = [e.temp_mc for e in events if isinstance(e, ev.NodeSampled) and e.temp_mc is not None]
    peaks = [v for each in incident.nodes for v in each.health.columns()[0][1] if v is not None]
    assert max(peaks) == max(hottest)


def test_everything_of_a_faulty_cluster_is_there() -> None:
    """Attempts, decisions, ends, samples, peaks: as many as the log has, and each attempt of a closed
    request has an end."""
    rows = faulty(6)
    incident = whole(rows)
    agrees(rows, incident)
    assert {each.outcome for each in incident.attempts} >= {"done", "failed", "abandoned"}
    assert all(each.end is not None for each in incident.attempts)
    assert fails(agrees, rows, whole(rows[:-40])), "a log that ends sooner would pass, too"


def test_peaks_above_the_mark_survive_down_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second above the mark in hours below it stands in the page's data, exactly."""
    monkeypatch.setattr("orion_streams.replay.node_timeline.MAX_POINTS", 1_000)
    log = Log(nodes=(WORKER,))
    for second in range(1, 6_000):
        hot = second == 4_321
        temp_mc, used_mb = (75_001, 7_201) if hot else (50_000 + second % 7, 2_000)
        log.commit(second * 1_000, sample(WORKER, temp_mc=temp_mc, ram_used_mb=used_mb))
    [machine] = log.incident().nodes
    assert len(machine.health) <= 1_000
    assert machine.health.width_ms == 8_000
    (_, hot_mc), (_, full), _ = machine.health.columns()
    assert [value for value in hot_mc if value is not None and value > 75_000] == [75_001]
    assert [value for value in full if value is not None and value > 900] == [901]


def test_a_request_is_followed_from_its_entry_to_its_end() -> None:
    """Routed, begun, failed, routed again, answered: times, positions, verdicts and outcomes."""
    log = Log()
    log.commit(1_000, accepted("brain/q1", age_ms=200))
    log.commit(2_000, ev.RequestDeferred("brain/q1", WaitKind.NO_NODE, "", VERDICTS))
    first = log.commit(3_000, routed("brain/q1", WORKER, 1, *VERDICTS))
    log.commit(3_300, started("brain/q1"))
    lost = log.commit(5_000, failed("brain/q1", WORKER))
    log.commit(5_100, routed("brain/q1", MASTER, 2), started("brain/q1", 2))
    log.commit(9_000, completed("brain/q1", MASTER, 2))
    incident = log.incident()
    one, two = incident.attempts
    assert (one.node, one.number, one.outcome, one.code) == (WORKER, 1, "failed", "stream_cut")
    assert (one.begin, one.end) == ((START_MS + 3_000, first), (START_MS + 5_000, lost))
    assert one.started is not None and one.started.ms == START_MS + 3_300
    assert one.verdicts == VERDICTS
    assert (two.node, two.outcome, two.tokens) == (MASTER, "done", 20)
    [deferral] = incident.deferrals
    assert (deferral.kind, deferral.verdicts) == ("no_node", VERDICTS)
    assert incident.longest is not None
    assert incident.longest.length_ms(incident.end) == 2_500


def test_models_in_memory_are_bars_also_where_a_run_shows_them_first() -> None:
    """A model comes with a load, with an answer or with health; another context is another runner."""
    log = Log()
    log.commit(0, ev.ModelInstalled(WORKER, MODEL, "d", 2_000))
    log.commit(1_000, accepted("brain/q1"), routed("brain/q1", WORKER), started("brain/q1"))
    log.commit(2_000, completed("brain/q1", WORKER))
    log.commit(3_000, ev.ModelLoaded(WORKER, MODEL, "d", 2_000, 4_096))
    log.commit(4_000, ev.ModelLoaded(WORKER, MODEL, "d", 2_000, 8_192))
    log.commit(5_000, ev.ModelUnloaded(WORKER, MODEL))
    log.commit(6_000)
    stays = log.incident().stays
    assert [(each.begin.ms - START_MS, each.end and each.end.ms - START_MS) for each in stays] == [
        (2_000, 4_000),
        (4_000, 5_000),
    ]


def test_a_report_may_begin_in_the_middle() -> None:
    """From a state in the middle of the log what goes on there is in the report: the open request, the
    models in memory, the backoff."""
    log = Log()
    log.commit(1_000, sample(WORKER), ev.ModelLoaded(WORKER, MODEL, "d", 2_000))
    log.commit(2_000, accepted("brain/q1"), routed("brain/q1", WORKER), started("brain/q1"))
    middle = log.commit(3_000, ev.NodeBackedOff(WORKER, Mark.HOT, 80_000, 75_000))
    log.commit(4_000, completed("brain/q1", WORKER), ev.NodeReturned(WORKER))
    base = LoggedGrid(Grid())
    fold_raw(base, log.rows[:middle])
    incident = collect(base, [log.rows[middle:]], "the rest")
    assert base.grid.position == middle, "the state that was given is somebody else's"
    assert (incident.begin.position, incident.end.position) == (middle + 1, len(log.rows))
    assert (incident.counts.accepted, incident.counts.ended) == (0, {"done": 1})
    [attempt], [backoff], [stay] = incident.attempts, incident.backoffs, incident.stays
    assert (attempt.outcome, backoff.end is not None, stay.model) == ("done", True, MODEL)
    [found] = incident.anomalies
    assert found.sentence == "orion-worker had backed off before; it took nothing for 1.0 s."
    assert render(incident)


def test_chunks_may_end_anywhere() -> None:
    """However the rows are handed over, the page is the same."""
    rows = recorded("load-heavy", "two-big", 30, policy="round-robin")
    pages = {
        render(collect(LoggedGrid(Grid()), chunks(rows, size), "a log")) for size in (1, 7, 500, len(rows))
    }
    assert len(pages) == 1


def test_a_changed_row_is_refused() -> None:
    """A log that is not the one that was written gives no report."""
    log = Log()
    beats(log, WORKER, 1, 5)
    log.rows[3] = (4, event_codec.encode(sample(WORKER, temp_mc=99_000)))
    with pytest.raises(LogError, match="positions 3 to 5 is not"):
        log.incident()


def test_a_clock_that_goes_back_is_said() -> None:
    """Time never goes back in the report; by how much it did is said."""
    log = Log()
    beats(log, WORKER, 1, 20)
    log.commit(5_000, sample(WORKER))
    log.commit(21_000, sample(WORKER))
    incident = log.incident()
    assert incident.back_ms == 14_000
    assert pack(incident)["back"] == 14_000


@given(HISTORIES)
@settings(max_examples=60)
def test_any_history_has_a_report(events: list[ev.AnyEvent]) -> None:
    """Also one that no router would write: nothing is assumed of the order of events."""
    log = Log()
    for n, event in enumerate(events):
        log.commit(n * 700, *(() if isinstance(event, ev.Committed) else (event,)))
    incident = log.incident()
    assert incident.events == len(log.rows)
    assert incident.counts.open >= 0
    assert all(value is not None and value >= 0 for row in incident.queue.rows.values() for value in row)
    assert render(incident)


def test_many_nodes_are_counted_and_some_are_shown() -> None:
    """A page has room for so many charts; those of which there is something to tell come first."""
    names = tuple(f"node-{n:03}" for n in range(MAX_NODES + 10))
    log = Log(nodes=names)
    log.commit(500, *(sample(name) for name in names))
    log.commit(1_000, ev.NodeBackedOff(names[-1], Mark.HOT, 76_000, 75_000))
    packed = pack(log.incident())
    assert packed["more"]["machines"] == 10
    shown = [packed["words"][each["name"]] for each in packed["machines"]]
    assert len(shown) == MAX_NODES
    assert names[-1] in shown


def test_of_many_things_the_weightiest_are_kept() -> None:
    """By weight; of those that weigh the same an even spread, not the first ones."""
    kept = Kept[int](10)
    for n in range(1_000):
        kept.add(n, 1 if n == 500 else 0)
    found = kept.all()
    assert (kept.count, len(found)) == (1_000, 10)
    assert 500 in found
    assert found == sorted(found)
    halves = [sum(n < 500 for n in found if n != 500), sum(n > 500 for n in found)]
    assert min(halves) >= 3


async def test_a_log_of_a_real_router(config: Config) -> None:
    """What the router writes with real agents' entries: an answer, a failure that is tried again, heat."""
    store = MemoryStore()
    worker, master = Agent(store, WORKER), Agent(store, MASTER)
    for agent in (worker, master):
        await agent.beat()
    router = Router(store.log, structs.replace(config, policy=Policy()))
    await router.start()
    await ask(store, "q1")
    await settle(router)
    for agent in (worker, master):
        for run in await agent.read_work():
            await agent.fail(run)
    await settle(router)
    for agent in (worker, master):
        for run in await agent.read_work():
            await agent.complete(run)
    await worker.beat(temp_mc=80_000)
    await settle(router)
    collector = Collector(LoggedGrid(Grid()), "t:log")
    collector.take(await store.log.events(0, 1_000))
    incident = collector.finish()
    assert {each.kind for each in incident.anomalies} == {"retry", "backoff"}
    assert [each.outcome for each in incident.attempts] == ["failed", "done"]
    assert all(len(each.verdicts) == len(incident.nodes) for each in incident.attempts)


def test_new_rules_draw_new_marks() -> None:
    """Each policy's marks hold from its own time on."""
    log = Log()
    changed = Policy(temp_max_mc=70_000, temp_return_mc=65_000)
    log.commit(5_000, ev.PolicyChanged(2, "cooler", changed, (NodeRules(WORKER),)))
    rules = pack(log.incident())["rules"]
    assert [(row[0], row[4]) for row in rules] == [(0, 75_000), (5_000, 70_000)]
