"""The frames of `orion top`: what they say, and that nothing is cut."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orion_streams.cli.terminal_keys import keys_in
from orion_streams.cli.top_screen import READING, Screen
from orion_streams.cli.top_sections import NODE_ORDERS, QUEUE_ORDERS, Section
from orion_streams.cli.top_view import Chosen, Frame, shares
from orion_streams.gateway.page_rows import View
from tests.cli.top_scenes import ATTIC, LONG, SCENES, crowd, quiet

SIZES = [(80, 24), (120, 40), (80, None), (120, None)]
TINY = [(20, 6), (40, 3), (3, 2), (80, 1), (300, 100)]


def shown(view: View, width: int = 80, height: int | None = 24, chosen: Chosen | None = None) -> str:
    """The frame as text."""
    console = Console(width=width, height=height or 50, highlight=False)
    with console.capture() as capture:
        console.print(Frame(view, chosen or Chosen(), height))
    return capture.get()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SCENES)
def test_a_frame_fits_its_terminal(name: str, size: tuple[int, int | None]) -> None:
    """No line is longer, there are as many lines as the terminal has, and the sentence, the parts and the
    keys are there."""
    width, height = size
    view = SCENES[name]()
    lines = shown(view, width, height).removesuffix("\n").split("\n")
    assert max(map(len, lines)) <= width
    if height is not None:
        assert len(lines) == height
    assert lines[0].startswith(view.sentence)
    assert lines[-1].startswith("q quit")
    assert lines[-1].rstrip().endswith("? help")
    out = "\n".join(lines)
    for part in ("NODE", "RUNNING", "WAITING", "DECIDED"):
        assert part in out


@pytest.mark.parametrize("size", TINY, ids=str)
@pytest.mark.parametrize("name", SCENES)
def test_a_terminal_of_any_size_gets_a_frame(name: str, size: tuple[int, int]) -> None:
    """However small or large: its lines and its width are filled and not more."""
    lines = shown(SCENES[name](), *size).split("\n")
    assert len(lines) == size[1]
    assert max(map(len, lines)) <= size[0]


def letters(*texts: object) -> Counter[str]:
    """How often each letter comes, without spaces."""
    return Counter("".join("".join(str(text).split()) for text in texts))


def sections(view: View, width: int) -> list[Section]:
    """The parts of a frame without a limit of its height."""
    console = Console(width=width)
    return Frame(view, Chosen())._sections(console, console.options, None)


@pytest.mark.parametrize("width", [40, 50, 80, 120])
@pytest.mark.parametrize("name", SCENES)
def test_no_letter_of_a_cell_is_cut(name: str, width: int) -> None:
    """Whatever the names: what is drawn has exactly the letters of its cells and heads."""
    for section in sections(SCENES[name](), width):
        if section.rows:
            console = Console(width=width, highlight=False)
            with console.capture() as capture:
                console.print(section.drawn(len(section.rows)))
            cells = [cell for row in section.rows for cell in row]
            assert letters(capture.get()) == letters(*section.columns, *cells)


@pytest.mark.parametrize(("width", "folded"), [(40, False), (50, False), (63, False), (30, True)])
def test_a_narrow_terminal_shows_who_does_what(width: int, folded: bool) -> None:
    """What is left has room: a node's name and figures stand whole in one line. The control is a strip."""
    lines = shown(quiet(), width, 24).splitlines()
    whole = [line for line in lines if line.startswith(("edge", "master", "worker")) and " GB " in line]
    assert (len(whole) == 3) != folded


def test_a_part_that_is_cut_would_be_noticed() -> None:
    """A control: in a terminal that is far too narrow letters are lost, and the law above fails."""
    section = sections(crowd(3, 1), 80)[0]
    console = Console(width=20, highlight=False)
    with console.capture() as capture:
        console.print(section.drawn(1))
    assert letters(capture.get()) != letters(*section.columns, *section.rows[0])


@pytest.mark.parametrize("waiting", [0, 1, 200, 300])
@pytest.mark.parametrize("nodes", [0, 1, 3, 8])
def test_what_has_no_room_is_counted(nodes: int, waiting: int) -> None:
    """In 24 lines each node is shown, and the queue says how many wait, shown and not."""
    out = shown(crowd(waiting, nodes))
    assert all(f"attic-{n}" in "".join(out.split()) for n in range(nodes))
    if not waiting:
        assert "nobody waits" in out
        return
    assert f"WAITING {waiting}" in out
    begin, end = out.index("WAITING"), out.index("DECIDED")
    rows = sum(
        line.strip()[:1].isdecimal() and "assistant/" in line for line in out[begin:end].splitlines()
    )
    more = [line for line in out[begin:end].splitlines() if line.startswith("… ")]
    assert rows > 0
    assert rows + int(more[0].split()[1] if more else 0) == waiting


def test_the_screen_says_what_is_wrong() -> None:
    """Too hot: the figure, the mark, since when and until when; silent, failing, loading; what waits."""
    hot = shown(SCENES["hot"](), 120, 40)
    assert "78.4 °C, above 75 °C since 0 s; goes on below 70 °C" in hot
    assert "worker takes nothing: 78.4 °C" in hot
    assert "waits behind 1 other" in hot
    dead = shown(SCENES["dead"](), 120, 40)
    assert "not heard for 95 s; goes on once it is heard again" in dead
    assert "is tried again in 10 s" in dead
    loads = shown(SCENES["loads"]())
    assert "loads llama3.2:3b, 20 s left" in loads
    assert "simulated: orion-edge, orion-master, orion-worker" in loads
    assert "kinematics only" in loads
    busy = shown(SCENES["busy"]())
    assert "answers brain with gemma3:270m" in busy
    assert "30 %" in busy
    assert "3f2a91c0" in busy


def test_while_redis_is_away_nothing_is_green() -> None:
    """All below the sentence is grey, and the sentence says since when."""
    console = Console(width=80, height=24, color_system="standard", force_terminal=True)
    for name, green in (("quiet", True), ("away", False)):
        with console.capture() as capture:
            console.print(Frame(SCENES[name](), Chosen(), 24))
        out = capture.get()
        assert ("\x1b[32m" in out.partition("\n")[2]) is green
    assert "Cannot hear Redis since 42 s" in out


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=5), st.integers(0, 60)
)
def test_all_lines_are_shared_out_and_none_twice(wants: list[tuple[int, int]], height: int) -> None:
    """Nobody gets more than is wanted, and while somebody wants more no line is left."""
    wanted = [want for want, _ in wants]
    given_lines = shares(wanted, [min(want, need) for want, need in wants], height)
    assert all(0 <= got <= want for got, want in zip(given_lines, wanted, strict=True))
    assert sum(given_lines) == min(height, sum(wanted))


def test_keys_are_told_apart() -> None:
    """Letters, arrows in both modes, and sequences of which nobody knows anything."""
    assert list(keys_in("q j")) == ["q", " ", "j"]
    assert list(keys_in("\x1b[Aq\x1bOB\x1b[6~")) == ["up", "q", "down", "page down"]
    assert list(keys_in("\x1b[1;5Cq\x1b[24~s\x1bxq")) == ["q", "s", "q"]
    assert list(keys_in("\x1b")) == []


def pressed(screen: Screen, *names: str) -> Chosen:
    """What is chosen after these keys."""
    for name in names:
        screen.obey(name)
    frame = screen.frame(24)
    assert isinstance(frame, Frame)
    return frame._chosen


def test_keys_sort_and_go_through_the_queue() -> None:
    """Each order comes in its turn, after the last the first; nobody leaves the queue at its ends."""
    screen = Screen(crowd)
    screen.refresh()
    seen = [pressed(screen, "s").queue_order for _ in QUEUE_ORDERS]
    assert sorted(seen) == sorted(QUEUE_ORDERS)
    assert seen[-1] == next(iter(QUEUE_ORDERS))
    assert [pressed(screen, "n").node_order for _ in NODE_ORDERS][-1] == next(iter(NODE_ORDERS))
    assert pressed(screen, "k", "up").offset == 0
    assert pressed(screen, "j", "down", "page down").offset == 12
    assert pressed(screen, *["page down"] * 30).offset == 199
    assert pressed(screen, "g").offset == 0
    assert pressed(screen, "j", "s").offset == 0
    assert pressed(screen, "x", "\t", "é") == pressed(screen)
    assert pressed(screen, "?").help
    assert "next order of the queue: service, age" in shown_by(screen)
    assert not pressed(screen, "h").help


@pytest.mark.parametrize("order", QUEUE_ORDERS)
def test_the_queue_keeps_its_numbers_in_any_order(order: str) -> None:
    """A request's number is its place in the order of service, however the rows are sorted."""
    view = crowd(9, 1)
    out = shown(view, 160, None, Chosen(queue_order=order))
    rows = [line.split() for line in out.splitlines() if "home-assistant/" in line]
    assert sorted(int(row[0]) for row in rows) == list(range(1, 10))
    found = [view.queue[int(row[0]) - 1] for row in rows]
    assert found == sorted(found, key=QUEUE_ORDERS[order])


@pytest.mark.parametrize("order", NODE_ORDERS)
def test_nodes_are_sorted(order: str) -> None:
    """By name, trouble, temperature or memory."""
    view = SCENES["dead"]()
    random.Random(1).shuffle(view.nodes)
    out = shown(view, 120, None, Chosen(node_order=order))
    names = [line.split()[0] for line in out.splitlines() if line.startswith("orion-")]
    assert names == [card.name for card in sorted(view.nodes, key=NODE_ORDERS[order])]
    if order == "trouble":
        assert names[-1] in ("orion-master", "orion-worker", "orion-edge")
        assert names[0] != "orion-attic"


def test_a_pause_holds_the_frame() -> None:
    """No new view is taken, and the frame says for how long; the same key goes on."""
    views, clock = iter([quiet(), crowd(), quiet(), crowd()]), iter([10.0, 13.5, 99.0])
    screen = Screen(lambda: next(views), lambda: next(clock))
    screen.refresh()
    screen.obey(" ")
    screen.refresh()
    assert "paused for 3 s: not live" in shown_by(screen)
    assert "All well, nobody asks" in shown_by(screen)
    screen.obey("p")
    assert "paused" not in shown_by(screen)
    assert "200 waiting" in shown_by(screen)


def test_before_anything_is_known_the_screen_says_so() -> None:
    """And nothing can be paused then."""
    screen = Screen(lambda: None)
    screen.refresh()
    screen.obey(" ")
    screen.obey("j")
    assert screen.frame(24) is READING


def shown_by(screen: Screen) -> str:
    """The frame that a screen draws."""
    console = Console(width=80, height=24, highlight=False)
    with console.capture() as capture:
        console.print(screen.frame(24))
    return capture.get()


def test_long_names_stand_whole_where_there_is_room() -> None:
    """At 120 columns a node's whole name and its model are in one line."""
    lines = shown(crowd(3, 1), 120, 40).splitlines()
    assert any(f"{ATTIC}-0" in line and LONG in line for line in lines)
