"""After a power cut what the log remembers of a node's memory is nothing: no decision goes by it until the
node is heard again, whatever the clock says meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.decider.route import Route, route
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.projections import fold, nodes
from tests.grids import MEMORY, MODEL, POLICY, fails, grid, node, request, verdict
from tests.properties import strategies as make
from tests.properties.world import MASTER, WORKER, World

NODES = (MASTER, WORKER)
STEPS = st.sampled_from((-30 * 86_400_000, -7_200_000, -1, POLICY.stale_ms + 1, 60_000, 30 * 86_400_000))
"""By how much the server's clock differs after a cut from what it said before."""
BACK = st.sets(st.sampled_from(NODES))
CUTS = st.lists(st.tuples(STEPS, st.booleans(), BACK), min_size=1, max_size=4)


class House(World):
    """A world that looks whether a decision goes by an earlier boot of a machine."""

    def __init__(self) -> None:
        super().__init__(checking=self.check_boot)
        self.asked = 0

    def check_boot(self, before: Grid, answer: ev.AnyEvent, _: Grid) -> None:
        """Law: what is sent to a node is decided by what this boot of it has said."""
        if isinstance(answer, ev.RequestRouted | ev.LoadOrdered):
            assert before.nodes[answer.node].boot == f"b{self.machines[answer.node].boot}"

    def ask_again(self) -> None:
        """Somebody asks."""
        self.asked += 1
        self.ask(f"q{self.asked}", MODEL)

    def work_until_done(self) -> None:
        """Every request is answered, within so many rounds."""
        for _ in range(30):
            self.work_all(1_900)

    def cut_power(self) -> None:
        """Everything is off; what was in memory is lost."""
        for machine in self.machines.values():
            machine.boot += 1
            machine.resident.clear()
            machine.in_hand.clear()
            machine.alive = False

    def come_back(self, *names: str) -> None:
        """These machines are heard again."""
        for name in names:
            self.machines[name].alive = True
        self.beat(*names)
        self.settle(900)


def a_house_that_answered() -> House:
    """Both nodes are up, and have the model in memory."""
    house = House()
    house.beat()
    house.settle()
    for _ in range(4):
        house.ask_again()
    house.settle()
    house.work_until_done()
    return house


def through(cuts: list[tuple[int, bool, set[str]]]) -> House:
    """Take a house through power cuts: by how much the clock differs, whether a health entry was left
    unread, which machines come back before the other."""
    house = a_house_that_answered()
    for step_ms, is_unread, back in cuts:
        house.ask_again()
        if is_unread:
            house.beat()
        house.cut_power()
        house.ask_again()
        house.commit(step_ms)
        house.settle(900)
        house.come_back(*sorted(back))
        house.come_back(*NODES)
    house.work_until_done()
    return house


@make.FEW
@given(CUTS)
def test_no_decision_goes_by_what_was_before_a_power_cut(cuts: list[tuple[int, bool, set[str]]]) -> None:
    """However the clock is wrong, whichever machine is the first, and with an old entry unread: and in the
    end every request is answered, once."""
    house = through(cuts)
    assert house.grid.open == {}
    assert [replies for replies in house.replies.values() if replies != ["done"]] == []


@pytest.mark.parametrize(("step_ms", "is_unread"), [(-7_200_000, False), (60_000, True)])
def test_a_memory_that_outlives_a_power_cut_breaks_it(
    monkeypatch: pytest.MonkeyPatch, step_ms: int, is_unread: bool
) -> None:
    """Negative control: where the fold forgets nothing, a request goes to a machine that is off."""
    monkeypatch.setattr(nodes, "jumped", lambda _: None)
    assert fails(through, [(step_ms, is_unread, set())])


def test_an_old_entry_that_counts_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: an entry from before the cut, read after it, tells of a memory that is lost."""
    jumped = nodes.jumped

    def and_believe(some: Grid) -> None:
        jumped(some)
        some.jumped = False

    through([(-7_200_000, True, set())])
    monkeypatch.setattr(nodes, "jumped", and_believe)
    assert fails(through, [(-7_200_000, True, set())])


@pytest.mark.parametrize(
    ("step_ms", "is_known"),
    [(-1, False), (0, True), (POLICY.stale_ms, True), (POLICY.stale_ms + 1, False)],
)
def test_from_which_jump_on_nothing_is_known(step_ms: int, is_known: bool) -> None:
    """A clock that goes back at all, or on by more than `stale_ms`: then the next entry tells, of this
    commit only one of another boot."""
    some = grid(node("n", resident=MEMORY), open_requests={"brain/q": request()})
    head = ev.Committed(some.number + 1, some.server_ms + step_ms, 0, True, "")
    after = fold(some, [head])
    assert isinstance(route(after, request()), Route) == is_known
    assert is_known or verdict(route(after, request()), "n").filter == "inventory_unknown"
    same, other = (ev.NodeSampled("n", boot, 0, 50_000, 2_000, 8_000, 0) for boot in ("b", "c"))
    assert isinstance(route(fold(after, [same]), request()), Route) == is_known
    assert isinstance(route(fold(after, [other]), request()), Route)
    later = ev.Committed(head.number + 1, head.server_ms + 10, 0, True, "")
    assert isinstance(route(fold(after, [later, same]), request()), Route)


def test_what_runs_goes_on_when_a_clock_jumps() -> None:
    """Nothing is taken from a node for a clock alone: it may be as well as before."""
    house = a_house_that_answered()
    house.ask_again()
    house.settle()
    [key] = house.grid.open
    name = house.request(key).node
    house.commit(7_200_000)
    assert house.request(key).node == name
    house.beat()
    house.settle()
    house.work_all()
    assert house.replies[key] == ["done"]
