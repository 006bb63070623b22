"""Where open requests stand: how many go first, when the first token is expected, and what for. Pure.

It looks at the grid after `decide`: what it answers changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from msgspec import Struct

from orion_streams.decider.estimates import expected_speed
from orion_streams.decider.filters import first_filter
from orion_streams.decider.queue import Queue, verdict_on
from orion_streams.decider.route import Wait, awake, is_cached, remaining_ms, route, warms_up
from orion_streams.model.quiet_hours import quiet_left_ms
from orion_streams.model.state import Grid, Node, Request, Run, Speed
from orion_streams.model.vocabulary import Filter, WaitKind

QUEUE, LOAD, HEAT, NODE, QUIET = "queue", "load", "heat", "node", "quiet"
LEAST_CHANGE_MS = 1_000
"""A shift of the expected moment that is smaller is not worth telling."""


class Standing(Struct, frozen=True):
    """`waiting` requests go first; the first token is expected in `eta_ms` (0: nobody knows), or in
    `eta_high_ms` if what goes first takes twice as long, and load and prefill as long as the slowest that
    were measured. `waits_for`: what is in the way, if anything."""

    waiting: int = 0
    eta_ms: int = 0
    eta_high_ms: int = 0
    waits_for: str = ""


def standings(grid: Grid, wanted: Collection[str]) -> dict[str, Standing]:
    """Return where these open requests stand that have not begun. At most `max_scan` waiting ones are
    looked at; those behind them count as expected in proportion to their place."""
    found = {key: assigned(grid, grid.open[key]) for key in wanted if grid.open[key].work_id}
    left = set(wanted) - found.keys()
    queue, last = Queue(grid), Standing()
    for place, key in enumerate(islice(queue.order, grid.policy.max_scan)):
        if not left:
            break
        request = grid.open[key]
        decision = route(grid, request, queue.waiting)
        last = waiting(grid, request, place, decision) if isinstance(decision, Wait) else Standing(place)
        for _ in queue.place(key, request, decision):
            pass  # its work counts for those behind it; what would be answered, `decide` has answered
        if key in left:
            left.remove(key)
            found[key] = last
    places = {key: place for place, key in enumerate(queue.order)} if left else {}
    for key in left:
        share = places[key] + 1, last.waiting + 1
        eta_ms, high_ms = (each * share[0] // share[1] for each in (last.eta_ms, last.eta_high_ms))
        found[key] = Standing(places[key], eta_ms, high_ms, last.waits_for or QUEUE)
    return found


def assigned(grid: Grid, request: Request) -> Standing:
    """Return where a request stands that a node has."""
    node = grid.nodes.get(request.node)
    held = node.assignments.get(request.work_id) if node is not None else None
    if node is None or not isinstance(held, Run) or request.model not in node.installed:
        return Standing()
    speed = expected_speed(grid, node, request.model, node.installed[request.model])
    prefill_ms = request.prompt_tokens * speed.prefill_us_per_token // 1000
    if held.cached:
        prefill_ms -= prefill_ms * grid.policy.session_permille // 1000
    others = [each for each in node.assignments.values() if each is not held and isinstance(each, Run)]
    before_ms = 0
    if len(others) >= node.rules.slots:
        before_ms = sum(remaining_ms(grid, each) for each in others) // node.rules.slots
    passed_ms = grid.at_ms - held.since_ms
    eta_ms = max(before_ms + held.load_ms + prefill_ms - passed_ms, 0)
    high_ms = 2 * before_ms + slowest_ms(grid, node, request, held.load_ms, prefill_ms)
    return Standing(0, eta_ms, max(high_ms - passed_ms, eta_ms), LOAD if held.load_ms else "")


def waiting(grid: Grid, request: Request, place: int, decision: Wait) -> Standing:
    """Return where a request stands that no node has yet."""
    if not decision.node:
        what = in_the_way(decision)
        left_ms = quiet_ends_ms(grid, request) if what == QUIET else 0
        return Standing(place, left_ms, left_ms, what)
    node, verdict = grid.nodes[decision.node], verdict_on(decision.node, decision.verdicts)
    prefill_ms = verdict.prefill_ms - verdict.cached_ms if is_cached(node, request) else verdict.prefill_ms
    eta_ms = verdict.drain_ms + verdict.load_ms + prefill_ms
    high_ms = 2 * verdict.drain_ms + slowest_ms(grid, node, request, verdict.load_ms, prefill_ms)
    return Standing(place, eta_ms, max(high_ms, eta_ms), HEAT if warms_up(grid, node) else QUEUE)


def in_the_way(decision: Wait) -> str:
    """Say what a request waits for that no node may take: that quiet hours end, that one cools down, or
    that one comes back."""
    if decision.kind == WaitKind.QUIET:
        return QUIET
    return HEAT if any(each.filter == Filter.HOT for each in decision.verdicts) else NODE


def quiet_ends_ms(grid: Grid, request: Request) -> int:
    """Return in how long the first quiet hours end of a node that is kept from the request by nothing
    else."""
    ends = (
        quiet_left_ms(grid, node)
        for node in grid.nodes.values()
        if node.rules.quiet and first_filter(grid, awake(node), request) is None
    )
    return min(ends, default=0)


def slowest_ms(grid: Grid, node: Node, request: Request, load_ms: int, prefill_ms: int) -> int:
    """Return what load and prefill take if they are as slow as the slowest measured: twice as long as
    expected where nothing was."""
    speed = grid.speeds.get((node.rules.name, request.model), Speed())
    stretched = (
        (load_ms, max(speed.loads, default=0), speed.load_ms),
        (prefill_ms, max(speed.prefills, default=0), speed.prefill_us_per_token),
    )
    return sum(
        expected_ms * slowest // median if slowest and median else 2 * expected_ms
        for expected_ms, slowest, median in stretched
    )


class Told(Struct, frozen=True):
    """What a client was told last, and when the first token was then expected, in grid time."""

    standing: Standing
    expected_ms: int


def is_news(grid: Grid, told: Told | None, now: Standing) -> bool:
    """Whether a standing is worth telling: the first one; another reason to wait; or a place, or an
    expected moment, that differs by more than a fifth of what was told. As time passes the moment stays
    the same, so a wait that goes as expected is told once; the same figures again are no news."""
    if told is None or told.standing.waits_for != now.waits_for:
        return True
    before = told.standing
    if now == before:
        return False
    if 5 * abs(now.waiting - before.waiting) > before.waiting:
        return True
    if not (before.eta_ms and now.eta_ms):
        return now.eta_ms > LEAST_CHANGE_MS or grid.at_ms < told.expected_ms
    shift_ms = abs(grid.at_ms + now.eta_ms - told.expected_ms)
    return shift_ms > max(before.eta_ms // 5, LEAST_CHANGE_MS)
