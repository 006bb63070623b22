"""The page's queue: lozenges in the order of service, and the verdicts behind one. Pure."""

from __future__ import annotations

from itertools import islice

from msgspec import Struct

from orion_streams.decider.estimates import best_pace, expected_work_us
from orion_streams.decider.queue import Queue
from orion_streams.decider.route import route
from orion_streams.decider.standings import HEAT, LOAD, NODE, QUIET, Standing, standings
from orion_streams.gateway.page_recent import Recent, Routed
from orion_streams.gateway.page_rows import Lozenge, PageCaller
from orion_streams.gateway.page_words import about, short, verdict_line
from orion_streams.model.state import Grid, Request
from orion_streams.model.verdict import Verdict

MOST_LOZENGES = 200


class Why(Struct, frozen=True):
    """Why a request goes where it goes: a line for each node, the cheapest first, and the whole in words.
    `number`: the position at which it was accepted; `node`: where it went, or would go now (empty: to
    none)."""

    number: int
    model: str
    client: str
    id: str
    node: str
    lines: list[str]
    text: str


def lozenges(grid: Grid) -> tuple[list[Lozenge], int]:
    """Return the waiting requests in the order of service, and how many are left out."""
    waiting = [key for key, row in grid.open.items() if not row.work_id]
    if not waiting:
        return [], 0
    order = Queue(grid).order
    shown = order[:MOST_LOZENGES]
    found = standings(grid, set(shown))
    paces: dict[str, tuple[int, int]] = {}
    for key in shown:
        model = grid.open[key].model
        paces.setdefault(model, best_pace(grid, model))
    rows = [lozenge(grid, key, grid.open[key], found[key], paces) for key in shown]
    return rows, len(order) - len(shown)


def lozenge(
    grid: Grid, key: str, request: Request, standing: Standing, paces: dict[str, tuple[int, int]]
) -> Lozenge:
    """Return the lozenge of a waiting request."""
    client, _, request_id = key.partition("/")
    return Lozenge(
        number=request.accepted,
        client=client,
        id=request_id,
        model=request.model,
        kind=request.kind,
        priority=request.priority,
        age_ms=max(grid.at_ms - request.accepted_ms, 0),
        work_ms=expected_work_us(grid, request, paces[request.model]) // 1000,
        eta_ms=standing.eta_ms,
        eta_high_ms=standing.eta_high_ms,
        waits_for=standing.waits_for,
        why=in_words(standing),
    )


def in_words(standing: Standing) -> str:
    """Say what a waiting request waits for."""
    match standing.waits_for:
        case str(word) if word == HEAT:
            return "waits until a node has cooled down"
        case str(word) if word == QUIET:
            return f"waits until quiet hours end, in about {about(standing.eta_ms)}"
        case str(word) if word == NODE:
            return "no node takes it now"
        case str(word) if word == LOAD:
            return "waits for its model"
        case _ if standing.waiting:
            return f"waits behind {standing.waiting} other{'s' * (standing.waiting > 1)}"
        case _:
            return "is next"


def why(grid: Grid, recent: Recent, number: int, caller: PageCaller) -> Why | None:
    """Return why a request goes where it goes; None if nothing is known of it. Of one that waits routing is
    asked as the queue would."""
    for key, request in grid.open.items():
        if request.accepted == number and not request.work_id:
            return waiting(grid, key, request, caller)
    routed = recent.routed.get(number)
    return chosen(routed, number, caller) if routed is not None else None


def waiting(grid: Grid, key: str, request: Request, caller: PageCaller) -> Why:
    """Return what routing finds for a request that waits, behind those that go first."""
    queue = Queue(grid)
    for other in islice(queue.order, grid.policy.max_scan):
        if other == key:
            break
        row = grid.open[other]
        for _ in queue.place(other, row, route(grid, row, queue.waiting)):
            pass  # its work counts for those behind it
    decision = route(grid, request, queue.waiting)
    node = getattr(decision, "node", "")
    text = f"would go to {short(node)}" if node else "no node takes it now"
    return of(number_and_id(request.accepted, key, caller), request.model, node, decision.verdicts, text)


def chosen(routed: Routed, number: int, caller: PageCaller) -> Why:
    """Return what the log says of a request that was sent to a node."""
    event = routed.event
    again = f", attempt {event.attempt}" if event.attempt > 1 else ""
    who = number_and_id(number, routed.request, caller)
    return of(who, routed.model, event.node, event.verdicts, f"went to {short(event.node)}{again}")


def number_and_id(number: int, key: str, caller: PageCaller) -> tuple[int, str, str]:
    """Return a request's number, its client, and its id where that is shown."""
    client, _, request_id = key.partition("/")
    return number, client, request_id if caller.sees(client) else ""


def of(who: tuple[int, str, str], model: str, node: str, verdicts: tuple[Verdict, ...], text: str) -> Why:
    """Return the verdicts, the chosen one first, then by cost, then what is filtered."""
    number, client, request_id = who
    ranked = sorted(
        verdicts, key=lambda each: (each.node != node, bool(each.filter), each.cost_ms, each.node)
    )
    lines = [verdict_line(each) for each in ranked]
    said = f"{text}: {', '.join(lines)}" if lines else text
    return Why(number, model, client, request_id, node, lines, said)
