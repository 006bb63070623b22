"""Logs to make reports of: written by hand, or recorded from a simulated grid."""

from __future__ import annotations

from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Blame
from orion_streams.protocol.commit_builder import GENESIS, LoggedGrid, chain
from orion_streams.replay.incident import Collector, Incident
from orion_streams.simulation.baseline_policies import questions_of
from orion_streams.simulation.virtual_house import usual_house
from orion_streams.simulation.workloads import arrivals, scenario
from tests.grids import sample
from tests.replay.decided import EPOCH_MS, Recorded, Row

START_MS = EPOCH_MS
MASTER, WORKER = "orion-master", "orion-worker"
MODEL = "llama3.2:3b"


class Log:
    """A chained log in the making. `commit` writes one; its times count from START_MS."""

    def __init__(self, policy: Policy = Policy(), nodes: tuple[str, ...] = (MASTER, WORKER)) -> None:  # noqa: B008 - frozen
        self.rows: list[Row] = []
        self._digest, self._number = GENESIS, 0
        self.commit(0, ev.PolicyChanged(1, "by hand", policy, tuple(NodeRules(name) for name in nodes)))

    def commit(self, at_ms: int, *events: ev.AnyEvent, decided: bool = True) -> int:
        """A commit of these events; the position of its last one."""
        self._number += 1
        head = ev.Committed(self._number, START_MS + at_ms, len(events), decided, self._digest.hex())
        for event in (head, *events):
            raw = event_codec.encode(event)
            self._digest = chain(self._digest, raw)
            self.rows.append((len(self.rows) + 1, raw))
        return len(self.rows)

    def incident(self) -> Incident:
        """What is found in it."""
        collector = Collector(LoggedGrid(Grid()), "a log by hand")
        collector.take(self.rows)
        return collector.finish()


def beats(log: Log, node: str, begin_s: int, end_s: int, **values: object) -> None:
    """A health entry each second, the last one before `end_s`."""
    for second in range(begin_s, end_s):
        log.commit(second * 1_000, sample(node, sampled_ms=second * 1_000, **values))


def accepted(request: str, model: str = MODEL, **values: object) -> ev.RequestAccepted:
    """A request of ordinary size."""
    usual: dict[str, object] = {
        "request": request,
        "entry_id": "1-0",
        "kind": "generate",
        "model": model,
        "deadline_ms": 600_000,
        "body_bytes": 100,
        "prompt_tokens": 20,
    }
    return ev.RequestAccepted(**{**usual, **values})  # type: ignore[arg-type]


def routed(request: str, node: str, attempt: int = 1, *verdicts: Verdict) -> ev.RequestRouted:
    """The decision for a node."""
    return ev.RequestRouted(request, attempt, node, "by hand", 1, verdicts, work_id(request, attempt))


def started(request: str, attempt: int = 1) -> ev.RequestStarted:
    """The node begins."""
    return ev.RequestStarted(request, attempt, work_id(request, attempt))


def failed(request: str, node: str, attempt: int = 1, code: str = "stream_cut") -> ev.AttemptFailed:
    """The attempt did not answer."""
    return ev.AttemptFailed(request, attempt, node, work_id(request, attempt), code, Blame.NODE)


def completed(request: str, node: str, attempt: int = 1) -> ev.RequestCompleted:
    """The answer."""
    return ev.RequestCompleted(request, attempt, node, work_id(request, attempt), 20, 20, 0, 10, 90, 100)


def work_id(request: str, attempt: int) -> str:
    """An attempt's fence."""
    return f"{sum(request.encode())}-{attempt}"


def recorded(regime: str, workload: str, requests: int, policy: str = "ours") -> list[Row]:
    """The log of a simulated run of three nodes."""
    scene = scenario(regime, workload, requests, 3)
    engine = Recorded(scene, arrivals(scene, 1), questions_of(policy, 1), usual_house(scene, 1_000))
    engine.run()
    return engine.rows
