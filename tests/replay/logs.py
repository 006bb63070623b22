"""Logs to make reports of: written by hand, or recorded from a simulated grid."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import Blame
from orion_streams.protocol.commit_builder import GENESIS, LoggedGrid, chain
from orion_streams.replay.incident import Collector, Incident
from orion_streams.simulation.baseline_policies import questions_of
from orion_streams.simulation.virtual_grid import Engine
from orion_streams.simulation.virtual_house import usual_house
from orion_streams.simulation.workloads import arrivals, scenario

Row = tuple[int, bytes]
START_MS = 1_800_000_000_000
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
            raw = ev.encode(event)
            self._digest = chain(self._digest, raw)
            self.rows.append((len(self.rows) + 1, raw))
        return len(self.rows)

    def incident(self) -> Incident:
        """What is found in it."""
        collector = Collector(LoggedGrid(Grid()), "a log by hand")
        collector.take(self.rows)
        return collector.finish()


def sample(node: str, at_ms: int, **values: object) -> ev.NodeSampled:
    """A health entry of a cool node with room, unless `values` say otherwise."""
    usual: dict[str, object] = {
        "node": node,
        "boot": "b1",
        "sampled_ms": at_ms,
        "temp_mc": 50_000,
        "ram_used_mb": 2_000,
        "ram_total_mb": 8_000,
        "cpu_permille": 100,
    }
    return ev.NodeSampled(**{**usual, **values})  # type: ignore[arg-type]


def beats(log: Log, node: str, begin_s: int, end_s: int, **values: object) -> None:
    """A health entry each second, the last one before `end_s`."""
    for second in range(begin_s, end_s):
        log.commit(second * 1_000, sample(node, second * 1_000, **values))


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


def routed(request: str, node: str, attempt: int = 1, *verdicts: ev.Verdict) -> ev.RequestRouted:
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


class Recorder(Engine):
    """A simulated grid that writes down what it commits."""

    def begin(self) -> None:
        """The first commit."""
        self.log, self.answers = Log(nodes=()), list[ev.AnyEvent]()
        super().begin()

    def commit(self, now: int) -> None:
        """Fold, decide and write it all into the log."""
        inputs, self.answers = self.inputs, []
        super().commit(now)
        self.log.commit(now, *inputs, *self.answers)

    def act(self, now: int, answer: ev.AnyEvent) -> None:
        """Keep the answer as it was stamped."""
        super().act(now, answer)
        if isinstance(answer, ev.RequestRouted | ev.LoadOrdered):
            answer = replace(answer, work_id=f"{self.work_number}-0")
        self.answers.append(answer)


def recorded(
    regime: str,
    workload: str,
    requests: int,
    *,
    policy: str = "ours",
    seed: int = 1,
    health_ms: int = 1_000,
    nodes: int = 3,
) -> list[Row]:
    """The log of a simulated run."""
    scene = scenario(regime, workload, requests, nodes)
    house = usual_house(scene, health_ms)
    engine = Recorder(scene, arrivals(scene, seed), questions_of(policy, seed), house)
    engine.run()
    return engine.log.rows


def chunks(rows: list[Row], size: int = 500) -> Iterator[list[Row]]:
    """The rows as a reader hands them over."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
