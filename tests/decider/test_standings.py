"""Where open requests stand, and when that is worth telling."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.standings import LEAST_CHANGE_MS, Standing, Told, is_news, standings
from orion_streams.model.state import Grid
from tests.grids import AT_MS, MODEL, grid, holding, node, request

WAITING = {f"c/{n}": request(accepted=n, accepted_ms=AT_MS - 100 + n) for n in range(5)}
BUSY = node("one", slots=1, assignments={"9-0": holding(request="c/other", run_ms=4_000)})


def test_those_who_wait_stand_in_the_order_of_service() -> None:
    """Each has those before it, and is expected no sooner than they; what goes first may take longer."""
    found = standings(grid(BUSY, open_requests=WAITING), WAITING)
    rows = [found[key] for key in sorted(WAITING)]
    assert [row.waiting for row in rows] == [0, 1, 2, 3, 4]
    assert {row.waits_for for row in rows} == {"queue"}
    etas_ms = [row.eta_ms for row in rows]
    assert etas_ms == sorted(set(etas_ms))
    assert all(row.eta_high_ms > row.eta_ms >= 4_000 for row in rows)


def test_those_beyond_the_scan_stand_in_proportion() -> None:
    """With `max_scan` 2 the others are expected as much later as their place is further back."""
    some = grid(BUSY, open_requests=WAITING)
    some.policy = replace(some.policy, max_scan=2)
    found = standings(some, WAITING)
    assert [found[f"c/{n}"].waiting for n in range(5)] == [0, 1, 2, 3, 4]
    assert found["c/4"].eta_ms == found["c/1"].eta_ms * 5 // 2


def test_nobody_knows_when_a_node_comes_back_or_cools_down() -> None:
    """No time is made up, and what is waited for is named."""
    away, hot = node("one", heard_ms=None), node("one", temp_mc=90_000, backed_off=("hot",))
    for row, reason in ((away, "node"), (hot, "heat")):
        found = standings(grid(row, open_requests=WAITING), {"c/0"})["c/0"]
        assert found == Standing(0, 0, 0, reason)


def test_a_request_that_a_node_has_waits_for_its_model_only() -> None:
    """What is left of the load and of reading the prompt; nothing once that has passed."""
    row = request(work_id="9-0", node="one", attempt=1)
    for since_ms, eta_ms in ((AT_MS, 1_000), (AT_MS - 400, 600), (AT_MS - 5_000, 0)):
        held = holding(request="c/0", model=row.model, run_ms=4_000, load_ms=1_000, since_ms=since_ms)
        some = grid(
            node("one", assignments={"9-0": held}), open_requests={"c/0": replace(row, prompt_tokens=0)}
        )
        found = standings(some, {"c/0"})["c/0"]
        assert (found.waiting, found.eta_ms, found.waits_for) == (0, eta_ms, "load")
    assert row.model == MODEL


STANDINGS = st.builds(
    Standing,
    st.integers(0, 50),
    st.integers(0, 100_000),
    st.integers(0, 200_000),
    st.sampled_from(["queue", "load"]),
)


@given(STANDINGS, st.integers(0, 100_000))
def test_a_wait_that_goes_as_expected_is_told_once(before: Standing, passed_ms: int) -> None:
    """As time passes the expected moment stays: no news, whenever one looks; nor are the same figures."""
    told = Told(before, AT_MS + before.eta_ms)
    later = Grid(at_ms=AT_MS + passed_ms)
    left_ms = before.eta_ms - passed_ms
    if left_ms > 0:
        assert not is_news(later, told, replace(before, eta_ms=left_ms))
    assert not is_news(later, told, before)


@given(STANDINGS, st.integers(-100_000, 100_000))
def test_a_change_beyond_a_fifth_is_told(before: Standing, shift_ms: int) -> None:
    """Of the expected moment, of the place, and any other reason to wait; smaller ones are not."""
    some, told = Grid(at_ms=AT_MS), Told(before, AT_MS + before.eta_ms)
    now = replace(before, eta_ms=before.eta_ms + shift_ms)
    if before.eta_ms > 0 and now.eta_ms > 0:
        large = abs(shift_ms) > max(before.eta_ms // 5, LEAST_CHANGE_MS)
        assert is_news(some, told, now) is large
    moved = replace(before, waiting=before.waiting + before.waiting // 5 + 1)
    assert is_news(some, told, moved)
    assert is_news(some, told, replace(before, waits_for="heat"))
    assert is_news(some, None, before)
