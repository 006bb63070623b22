"""The sender tells each thing once, together with what came at the same time, and not too often; what it
noted it goes on with."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.agents import alert_file
from orion_streams.agents.alert_file import Outbox, SenderState
from orion_streams.agents.alert_sender import HOUR_MS, LONGEST_PAUSE_S, Sender, add, pause_s
from orion_streams.agents.alert_targets import Target
from orion_streams.errors import ConfigError, OrionError, TellError
from orion_streams.model.alert_rules import AlertRule
from orion_streams.projections.alerts import Fact, Moment
from orion_streams.protocol.alert_messages import LINE_CHARS, MOST_LISTED, Message, message_of, says
from tests.agents.alert_house import QUICK, RULES, all_told, follow, house
from tests.agents.alert_stage import change
from tests.properties import strategies as make

LIVE = AlertRule("no-router", "no_router", for_ms=0)


class Ear(Target, frozen=True):
    """A target that hears, or fails so many times before."""

    heard: list[Message] = msgspec.field(default_factory=list)
    failures: list[str] = msgspec.field(default_factory=list)

    async def tell(self, message: Message) -> str:
        if self.failures:
            raise TellError(self.failures.pop())
        self.heard.append(message)
        return "heard"


class Clock:
    """A wall clock that a test moves."""

    now_ms = HOUR_MS

    def __call__(self) -> int:
        return self.now_ms


def sender_of(*ears: Ear, state: SenderState | None = None, **values: Any) -> Sender:
    """A sender to these targets that notes nothing."""
    state = state or SenderState("orion:", position=0)
    usual: dict[str, Any] = {"save": lambda _: None, "pause_s": lambda _: 0.0, "now_ms": Clock()}
    return Sender(RULES, ears, state, **{**usual, **values})


def ear(name: str = "one", **values: Any) -> Ear:
    """A target with lists of its own."""
    return Ear(name, replace(QUICK, **values))


async def test_what_begins_and_ends_is_told_once() -> None:
    """In the order of the log; what came by then is one message."""
    one = ear()
    sender = sender_of(one)
    follow(sender, house())
    await all_told(sender)
    await all_told(sender)
    [message] = one.heard
    assert [row.rule for row in message.begun] == ["hot", "full", "queue", "hot"]
    assert [row.rule for row in message.ended] == ["hot", "full", "hot"]
    assert message.title == "orion: 4 begun, 3 over"
    assert list(sender.state.folded.book.open) == ["queue/"]


async def test_each_target_hears_all_of_it_on_its_own() -> None:
    """One that fails for good keeps nothing from the other, and is told later how much it missed."""
    deaf, well = ear("deaf"), ear("well")
    deaf.failures.extend(["x"] * QUICK.tries)
    sender = sender_of(deaf, well)
    follow(sender, house())
    await all_told(sender)
    assert (len(well.heard), deaf.heard) == (1, [])
    sender.see(LIVE, {"": Fact(60_000)}, Moment(0, 0, 9))
    await all_told(sender)
    assert [message.left_out for message in deaf.heard] == [7]
    assert deaf.heard[0].text.endswith("7 more were left out")
    assert [message.left_out for message in well.heard] == [0, 0]


async def test_a_failure_is_tried_again_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """As often as `tries` says, then given up, in the log of the process."""
    caplog.set_level(logging.INFO, "orion.alerts")
    once = ear(tries=2)
    once.failures.append("it answered 500")
    sender = sender_of(once)
    follow(sender, house())
    await all_told(sender)
    assert len(once.heard) == 1
    assert "one was not told (try 1): it answered 500" in caplog.text
    assert "given up" not in caplog.text
    once.failures.extend(["it answered 500"] * 2)
    sender.see(LIVE, {"": Fact(60_000)}, Moment(0, 0, 9))
    await all_told(sender)
    assert "one was not told in 2 tries: given up, with 1 alerts" in caplog.text


def test_pauses_grow_up_to_a_limit() -> None:
    """2, 8, 32, 128 seconds, then five minutes each."""
    assert [pause_s(tried) for tried in (1, 2, 3, 4, 5, 20)] == [
        2,
        8,
        32,
        128,
        LONGEST_PAUSE_S,
        LONGEST_PAUSE_S,
    ]


async def test_in_an_hour_there_are_so_many_messages() -> None:
    """What would be more waits; afterwards it is one."""
    one, clock = ear(most_per_hour=2), Clock()
    sender = sender_of(one, now_ms=clock)
    follow(sender, [])
    box = sender.state.outboxes["one"]
    for number in range(2):
        sender.see(LIVE, {str(number): Fact(1)}, Moment(0, 0, 1))
        await sender.deliver("one")
        clock.now_ms += 60_000
    assert len(one.heard) == 2
    assert sender._wait_ms(box, 2) == HOUR_MS - 120_000
    clock.now_ms += HOUR_MS - 120_000
    assert sender._wait_ms(box, 2) == 0
    clock.now_ms = 1_000  # a clock that was put back keeps nobody waiting
    assert sender._wait_ms(box, 2) == 0


@make.FEW
@given(st.integers(0, 3 * MOST_LISTED), st.integers(0, 3 * MOST_LISTED))
def test_what_waits_is_bounded_and_what_is_left_out_counted(first: int, then: int) -> None:
    """The newest are kept."""
    box = Outbox()
    changes = [change(f"r{number}") for number in range(first + then)]
    add(box, changes[:first])
    add(box, changes[first:])
    assert len(box.waiting) + box.left_out == first + then
    assert len(box.waiting) <= MOST_LISTED
    assert box.waiting == changes[len(changes) - len(box.waiting) :]


def test_a_text_is_one_line_without_what_a_screen_obeys() -> None:
    """A client's name in a hostile stream is no exception."""
    hostile = "x\r\nX-Priority: 5\x1b[2J\u202e" + "y" * 500
    text = says(change("r", hostile, kind="unread_client").alert)
    assert len(text) <= LINE_CHARS
    assert text.isprintable()
    assert message_of(1, "o:", [change("r", hostile, kind="unread_client")]).title.isprintable()


@make.FEW
@given(st.sets(st.integers(0, 40), max_size=6))
def test_restarted_anywhere_it_tells_the_same(cuts: set[int]) -> None:
    """A sender that ended at any positions, and went on by what it had noted, has noted the same."""

    def waiting(stops: list[int]) -> list[tuple[str, bool, int]]:
        state = SenderState("orion:", position=0)
        for stop in [*stops, len(house())]:
            state = msgspec.json.decode(msgspec.json.encode(state), type=SenderState)
            sender = sender_of(ear(), state=state)
            follow(sender, house()[:stop])
        return [(each.alert.rule, each.ended, each.position) for each in state.outboxes["one"].waiting]

    assert waiting(sorted(min(cut, len(house())) for cut in cuts)) == waiting([])
    assert len(waiting([])) == 7


async def test_only_one_message_is_on_its_way() -> None:
    """So a crash repeats one at most, also with several targets."""
    under_way = most = 0

    class Slow(Ear, frozen=True):
        async def tell(self, message: Message) -> str:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            others_had_their_turn = asyncio.Event()
            asyncio.get_running_loop().call_soon(others_had_their_turn.set)
            await others_had_their_turn.wait()
            under_way -= 1
            return "heard"

    sender = sender_of(*(Slow(name, QUICK) for name in ("a", "b", "c")))
    follow(sender, house())
    await asyncio.gather(*(sender.deliver(name) for name in "abc"))
    assert most == 1


async def test_what_cannot_be_noted_is_not_sent() -> None:
    """A full disk ends the process before anything is told twice."""
    one, notes = ear(), 0

    def save(_: SenderState) -> None:
        nonlocal notes
        notes += 1
        if notes > 7:
            raise OrionError("alerts_file: cannot be written")

    sender = sender_of(one, save=save)
    follow(sender, house())
    with pytest.raises(OrionError, match="alerts_file"):
        while True:
            await all_told(sender)
            sender.note()
    assert len(one.heard) <= 1


def test_a_target_that_is_no_more_is_forgotten() -> None:
    """And a new one is told only what begins from now on."""
    state = SenderState("orion:", position=0, outboxes={"old": Outbox([change()])})
    sender = sender_of(ear("new"), state=state)
    assert list(sender.state.outboxes) == ["new"]
    assert sender.state.outboxes["new"].waiting == []


def test_the_file_is_private_and_whole(tmp_path: Path) -> None:
    """Mode 0600; it comes back as it was, and no other file is left."""
    path = tmp_path / "alerts.json"
    state = SenderState("orion:", 7, outboxes={"one": Outbox([change()], 2, message_of(1, "o:", []), [3])})
    alert_file.write(path, state)
    assert path.stat().st_mode & 0o777 == 0o600
    assert alert_file.read(path, "orion:") == state
    assert [each.name for each in tmp_path.iterdir()] == ["alerts.json"]
    assert alert_file.read(tmp_path / "none.json", "orion:") is None


@pytest.mark.parametrize(
    ("raw", "mode", "prefix", "says"),
    [
        (b"{}", 0o600, "orion:", "is damaged"),
        (b'{"prefix":"orion:"', 0o600, "orion:", "is damaged"),
        (b'{"prefix":"orion:"}', 0o644, "orion:", "chmod 600"),
        (b'{"prefix":"other:"}', 0o600, "orion:", "is that of the grid other:, not of orion:"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, raw: bytes, mode: int, prefix: str, says: str
) -> None:
    """With what is wrong."""
    path = tmp_path / "alerts.json"
    path.write_bytes(raw)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=says):
        alert_file.read(path, prefix)


def test_two_senders_cannot_hold_one_file(tmp_path: Path) -> None:
    """The second is refused; when the first ends, the next may."""
    path = tmp_path / "folder" / "alerts.json"
    assert not alert_file.is_held(path)
    with alert_file.held(path):
        assert alert_file.is_held(path)
        with pytest.raises(ConfigError, match="another process sends alerts"), alert_file.held(path):
            pass
    assert not alert_file.is_held(path)
    torn = path.with_name("alerts.json.0a1b.new")
    torn.write_text("half")
    with alert_file.held(path):
        assert not torn.exists()
