"""The invariants, each with a name, checked on the raw streams: nothing here asks the router what it
thinks, but for `fold_equals_state`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from tests.cluster.cluster_grid import Cluster


class Found(Struct):
    """Counts, and the invariants that broke with what broke them, the first one of each."""

    answered: int = 0
    kinds: dict[str, int] = {}
    lost: int = 0
    duplicate_replies: int = 0
    duplicate_dispatches: int = 0
    repeated_generations: int = 0
    log_gaps: int = 0
    diverged: int = 0
    broken: dict[str, str] = field(default_factory=dict)

    def breaks(self, invariant: str, what: str) -> None:
        """Note what broke an invariant first."""
        self.broken.setdefault(invariant, what)


def check(cluster: Cluster, rests: bool) -> Found:
    """All invariants on what a run left behind."""
    from tests.cluster import checks_log, checks_replies  # noqa: PLC0415

    found = Found()
    if not rests:
        found.breaks("comes_to_rest", unrest(cluster))
    checks_replies.check(cluster, found)
    checks_log.check(cluster, found)
    return found


def unrest(cluster: Cluster) -> str:
    """What is still under way."""
    open_calls = [f"{each.name}/{key}" for each in cluster.clients for key in each.open]
    if open_calls:
        return f"{len(open_calls)} requests have no end, e.g. {open_calls[0]}"
    in_hand = [f"{each.name} {key}" for each in cluster.agents for key in each.core.jobs]
    if in_hand:
        return f"still in hand: {in_hand[0]}"
    unread = [each for each in cluster.inputs() if cluster.cursor(each) != cluster.server._tops.get(each)]
    return f"unread: {unread[0]}" if unread else "no router is at the head of the log with nothing open"
