"""One run: the faults strike, the world heals, everything must come to rest, and the checks look at it."""

from __future__ import annotations

import gc
import hashlib
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from tests.cluster import checks_log, checks_replies
from tests.cluster.cluster_grid import Cluster
from tests.cluster.cluster_house import DEADLINE_MS
from tests.cluster.found import Found
from tests.cluster.nemesis import Nemesis

LONGEST_MS = 3_600_000
REST_MS = 2 * DEADLINE_MS + 60_000


class Run(Struct):
    """What one run came to. `found`: by its checks; `faults`: how often each happened."""

    seed: int
    requests: int
    found: Found
    faults: dict[str, int]
    recoveries: int
    refusals: int
    tail_repeats: int
    virtual_ms: int
    events: int
    commits: int
    log_digest: str


@contextmanager
def undisturbed() -> Iterator[None]:
    """Do without the cyclic garbage collector and without log lines: a run is much faster so."""
    was_enabled, level = gc.isenabled(), logging.root.manager.disable
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        if was_enabled:
            gc.enable()


def run_one(seed: int, requests: int, faults: frozenset[str]) -> Run:
    """Run a cluster with so many requests and these faults, and check it; an error is a finding."""
    with undisturbed():
        cluster = Cluster(seed, requests, faults)
        try:
            found = check(cluster, run_to_rest(cluster))
        except Exception as error:  # whatever it is, it has a seed
            found = Found()
            place = traceback.extract_tb(error.__traceback__)[-1]
            found.breaks(
                "nothing_crashes", f"{type(error).__name__}: {error} ({place.name}:{place.lineno})"
            )
    world, journal = cluster.world, cluster.server.journal
    return Run(
        seed=seed,
        requests=requests,
        found=found,
        faults=dict(sorted(world.happened.items())),
        recoveries=sum(each.starts for each in cluster.routers),
        refusals=len(cluster.refusals),
        tail_repeats=sum(each.tail_repeats for each in cluster.clients),
        virtual_ms=world.now_ms,
        events=len(journal.log),
        commits=len(journal.steps),
        log_digest=hashlib.blake2b(b"\n".join(journal.log), digest_size=16).hexdigest(),
    )


def run_to_rest(cluster: Cluster) -> bool:
    """Let everything happen, faults first. Return whether the cluster came to rest after they had ended."""
    cluster.start()
    nemesis, world = Nemesis(cluster), cluster.world
    world.run_until(lambda: all(each.has_asked for each in cluster.clients), LONGEST_MS)
    nemesis.heal()
    healed_ms = world.now_ms
    if not world.run_until(cluster.is_done, healed_ms + REST_MS):
        return False
    return world.run_until(cluster.rests, healed_ms + 2 * REST_MS)


def check(cluster: Cluster, rests: bool) -> Found:
    """Check all invariants on what a run left behind."""
    found = Found()
    if not rests:
        found.breaks("comes_to_rest", unrest(cluster))
    checks_replies.check(cluster, found)
    checks_log.check(cluster, found)
    return found


def unrest(cluster: Cluster) -> str:
    """Name something that is still under way."""
    open_calls = [f"{each.name}/{key}" for each in cluster.clients for key in each.open]
    if open_calls:
        return f"{len(open_calls)} requests have no end, e.g. {open_calls[0]}"
    in_hand = [f"{each.name} {key}" for each in cluster.agents for key in each.core.jobs]
    if in_hand:
        return f"still in hand: {in_hand[0]}"
    unread = [each for each in cluster.inputs() if cluster.cursor(each) != cluster.server._tops.get(each)]
    return f"unread: {unread[0]}" if unread else "no router is at the head of the log with nothing open"
