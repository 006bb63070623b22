"""Small logs by hand: a router that takes what it is given, and the words for that."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.policy import DECIDER, NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.model.vocabulary import RequestKind
from orion_streams.projections import apply
from tests.grids import HEAVY, MODEL, sample
from tests.replay.decided import EPOCH_MS, Row, chained

A, B = "a", "b"
QUIET = Policy(plan_every_ms=0, prior_tokens=100, slope_horizon_ms=0, load_us_per_mb=1_000)
NODES = (NodeRules(A), NodeRules(B))


class Book:
    """A router's log: each commit takes the inputs that it is given, decides, and stamps its answers."""

    def __init__(self) -> None:
        self.grid = Grid()
        self.events: list[ev.AnyEvent] = []
        self.now_ms = EPOCH_MS
        self._ids = 0

    def commit(
        self, *inputs: ev.AnyEvent, passed_ms: int = 1_000, decided: bool = True
    ) -> list[ev.AnyEvent]:
        """One commit; what was answered, unless it only takes a backlog."""
        self.now_ms += passed_ms
        head = ev.Committed(self.grid.number + 1, self.now_ms, len(inputs), decided, "")
        for event in (head, *inputs):
            apply(self.grid, event)
        found = decide(self.grid) if decided else ()
        answers = [self._stamped(answer) for answer in found]
        for answer in answers:
            apply(self.grid, answer)
        self.events += (head, *inputs, *answers)
        return answers

    def _stamped(self, answer: ev.AnyEvent) -> ev.AnyEvent:
        if not isinstance(answer, ev.RequestRouted | ev.LoadOrdered):
            return answer
        self._ids += 1
        return structs.replace(answer, work_id=f"{self.now_ms}-{self._ids}")

    @property
    def rows(self) -> list[Row]:
        """The log."""
        return chained(self.events)


def house(policy: Policy = QUIET, nodes: tuple[NodeRules, ...] = NODES, **models: tuple[str, ...]) -> Book:
    """A log's beginning: the rules, and cool nodes with two models on disk; some in memory."""
    book = Book()
    book.commit(ev.PolicyChanged(1, "p", policy, nodes, decider=DECIDER))
    for each in nodes:
        for model, digest, size_mb in ((MODEL, "d1", 250), (HEAVY, "d2", 2_000)):
            book.commit(ev.ModelInstalled(each.name, model, digest, size_mb))
        for model in models.get(each.name, ()):
            digest, size_mb = {MODEL: ("d1", 500), HEAVY: ("d2", 2_400)}[model]
            book.commit(ev.ModelLoaded(each.name, model, digest, size_mb, 4_096))
    beat(book, {each.name: 50_000 for each in nodes})
    return book


def beat(book: Book, temps_mc: dict[str, int], passed_ms: int = 1_000) -> None:
    """Health of the nodes, each at its temperature; it lists what they have in hand."""
    samples = [
        sample(
            name, sampled_ms=book.now_ms, temp_mc=temp_mc, work_read=f"{book.now_ms}-0",
            in_hand=tuple(book.grid.nodes[name].assignments),
        )
        for name, temp_mc in temps_mc.items()
    ]  # fmt: skip
    book.commit(*samples, passed_ms=passed_ms)


def quiet(book: Book) -> None:
    """Six seconds in which nobody is heard."""
    for _ in range(3):
        book.commit(passed_ms=2_000)


def accepted(name: str, model: str = MODEL, **values: Any) -> ev.RequestAccepted:
    """A request comes in."""
    usual = {"deadline_ms": 600_000, "body_bytes": 10, "prompt_tokens": 20, "num_ctx": 4_096}
    return ev.RequestAccepted(f"brain/{name}", "1-0", RequestKind.GENERATE, model, **{**usual, **values})


def result(book: Book, name: str) -> dict[str, Any]:
    """Who has the request in hand, as its results say it."""
    row = book.grid.open[f"brain/{name}"]
    return {"request": f"brain/{name}", "attempt": row.attempt, "node": row.node, "work_id": row.work_id}


def completed(book: Book, name: str, **values: Any) -> ev.RequestCompleted:
    """The request's answer."""
    usual = {"tokens": 9, "prompt_tokens": 9, "load_ms": 0, "prefill_ms": 0, "decode_ms": 0, "total_ms": 9}
    return ev.RequestCompleted(**result(book, name), **{**usual, **values})


def started(book: Book, name: str) -> ev.RequestStarted:
    """The request's attempt runs."""
    said = result(book, name)
    return ev.RequestStarted(said["request"], said["attempt"], said["work_id"])
