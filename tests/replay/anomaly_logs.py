"""Logs that hold one anomaly each, and what resembles it."""

from __future__ import annotations

from orion_streams.model import events as ev
from orion_streams.model.vocabulary import Mark
from tests.grids import sample
from tests.replay.logs import (
    MASTER,
    MODEL,
    WORKER,
    Log,
    accepted,
    beats,
    completed,
    failed,
    routed,
    started,
)

OTHER = "gemma3:4b"
MINUTE = 60_000


def loads(log: Log, every_ms: int, times: int) -> None:
    """Two models that take turns in a node's memory."""
    for n in range(times):
        model, gone = (MODEL, OTHER) if n % 2 else (OTHER, MODEL)
        out = (ev.ModelUnloaded(WORKER, gone),) if n else ()
        log.commit(n * every_ms, *out, ev.ModelLoaded(WORKER, model, f"digest {model}", 2_000))


def thrash() -> Log:
    """Each model comes back three times."""
    log = Log()
    loads(log, MINUTE, 8)
    return log


def slow_loads() -> Log:
    """As often, but a model is away for half an hour each time."""
    log = Log()
    loads(log, 30 * MINUTE, 8)
    return log


def restart() -> Log:
    """Many models leave and come back, each of them once: a node that was started anew."""
    log = Log()
    models = [f"model-{n}" for n in range(8)]
    log.commit(1_000, *(ev.ModelLoaded(WORKER, each, each, 100) for each in models))
    log.commit(2_000, *(ev.ModelUnloaded(WORKER, each) for each in models))
    log.commit(9_000, *(ev.ModelLoaded(WORKER, each, each, 100) for each in models))
    return log


def backs_off(times: int, every_ms: int) -> Log:
    """A node that backs off and returns."""
    log = Log()
    for n in range(times):
        log.commit(n * every_ms, ev.NodeBackedOff(WORKER, Mark.HOT, 75_004, 75_000))
        log.commit(n * every_ms + 20_000, ev.NodeReturned(WORKER))
    return log


def both_marks() -> Log:
    """Three marks passed, but one backoff."""
    log = Log()
    for n, reason in enumerate(("hot", "ram", "hot")):
        log.commit(n * 1_000, ev.NodeBackedOff(WORKER, Mark(reason), 901, 900))
    return log


def silent(seconds: int) -> Log:
    """The master goes on, the worker pauses."""
    log = Log()
    for second in range(1, 10):
        log.commit(second * 1_000, sample(WORKER), sample(MASTER))
    beats(log, MASTER, 10, 10 + seconds)
    log.commit((10 + seconds) * 1_000, sample(WORKER), sample(MASTER))
    return log


def router_away(backlog: bool) -> Log:
    """No commit for ten minutes; then, with `backlog`, health of all that time is read at once."""
    log = Log()
    for second in range(1, 10):
        log.commit(second * 1_000, sample(WORKER), sample(MASTER))
    for node in (WORKER, MASTER):
        ages = range(590_000, 0, -1_000) if backlog else (0,)
        log.commit(600_000, *(sample(node, age_ms=age) for age in ages), decided=False)
    log.commit(600_100, sample(WORKER), sample(MASTER))
    return log


def quiet() -> Log:
    """No commit for ten minutes, since no node was ever heard."""
    log = Log()
    log.commit(600_000, accepted("brain/q1"))
    return log


def waits(ms: int, attempts: int = 1) -> Log:
    """A request that no node runs for so long, in so many attempts of which only the last one starts."""
    log = Log()
    log.commit(1_000, accepted("brain/q1"))
    for n in range(1, attempts):
        log.commit(1_000 + ms * n // attempts, routed("brain/q1", WORKER, n))
        log.commit(1_001 + ms * n // attempts, failed("brain/q1", WORKER, n, "ollama_unreachable"))
    log.commit(1_000 + ms, routed("brain/q1", WORKER, attempts), started("brain/q1", attempts))
    log.commit(300_000, completed("brain/q1", WORKER, attempts))
    return log


def still_waits() -> Log:
    """A request that nobody has begun when the log ends."""
    log = Log()
    log.commit(1_000, accepted("brain/q1", age_ms=30_000))
    log.commit(40_000)
    return log


def runs_long() -> Log:
    """A request that runs for minutes, but waits for no time."""
    log = Log()
    log.commit(1_000, accepted("brain/q1"), routed("brain/q1", WORKER), started("brain/q1"))
    log.commit(300_000, completed("brain/q1", WORKER))
    return log


def retried() -> Log:
    """Two attempts fail, the third one answers."""
    log = Log()
    log.commit(1_000, accepted("brain/q1"))
    for n in (1, 2):
        log.commit(n * 2_000, routed("brain/q1", WORKER, n), started("brain/q1", n))
        log.commit(n * 2_000 + 500, failed("brain/q1", WORKER, n))
    log.commit(9_000, routed("brain/q1", MASTER, 3), started("brain/q1", 3))
    log.commit(9_500, completed("brain/q1", MASTER, 3))
    return log


def stale_result() -> Log:
    """One attempt; a result of another one, which nobody waits for."""
    log = Log()
    log.commit(1_000, accepted("brain/q1"), routed("brain/q1", WORKER), started("brain/q1"))
    log.commit(1_500, failed("brain/q1", MASTER, 7))
    log.commit(2_000, completed("brain/q1", WORKER))
    return log


def trips() -> Log:
    """A breaker opens and closes."""
    log = Log()
    log.commit(1_000, ev.BreakerOpened(WORKER, 3, 15_000))
    log.commit(21_000, ev.BreakerClosed(WORKER))
    return log


def boots(*samples: ev.NodeSampled) -> Log:
    """Health of one node, a sample every two seconds."""
    log = Log()
    for n, each in enumerate(samples):
        log.commit(1_000 + 2_000 * n, each)
    return log


FIRST, NEXT = sample(WORKER, boot="b1", in_hand=("1-0", "2-0")), sample(WORKER, boot="b2")
GOODBYE = sample(WORKER, boot="b1", leaving=True, goodbye=True)


def ends(event: ev.AnyEvent) -> Log:
    """A request that ends so."""
    log = Log()
    log.commit(1_000, accepted("brain/q1"))
    log.commit(4_000, event)
    return log
