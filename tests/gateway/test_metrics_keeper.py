"""The counters of /metrics over the life of their file: nothing twice, nothing of another grid."""

from __future__ import annotations

import asyncio
import logging
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from orion_streams.agents import metrics_keeper
from orion_streams.agents.metrics_keeper import ANEW, IDLE_SAVES, MAX_FILE_BYTES, MetricsKeeper, file_of
from orion_streams.config import parse
from orion_streams.eventlog.loader import fold_each, fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.projections.metrics import Tally
from orion_streams.protocol.commit_builder import LoggedGrid
from tests.helpers import eventually
from tests.properties.test_folding import a_day
from tests.replay.recorded import mended

Rows = list[bytes]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """The log of a day in which something of everything happened."""
    return mended([event_codec.encode(event) for event in a_day().log])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the counters are to be, in a folder that is still to be made."""
    return tmp_path / "orion" / "metrics-gateway.json"


def state_at(rows: Rows, position: int) -> LoggedGrid:
    """What a log says at a position."""
    state = LoggedGrid(Grid())
    fold_raw(state, enumerate(rows[:position], 1))
    return state


def tell(keeper: MetricsKeeper, rows: Rows, begin: int | None = None) -> MetricsKeeper:
    """As a follower does it: from where the keeper wants to go on, or from `begin` on."""
    wanted = keeper.position or 0 if begin is None else begin
    state = state_at(rows, min(wanted, len(rows)))
    keeper.begin(state)
    rest = enumerate(rows[state.grid.position :], state.grid.position + 1)
    for _, event in fold_each(state, rest):
        keeper.take(state.grid, event)
    return keeper


def fresh(path: Path, rows: Rows, prefix: str = "orion:") -> MetricsKeeper:
    """A gateway that starts, and follows this log."""
    return tell(MetricsKeeper(path, prefix), rows)


def test_they_lie_beside_the_keys(tmp_path: Path) -> None:
    """Two gateways of one machine have two names, and so two files."""
    text = f'[nodes.one]\n[gateway]\nname = "two"\nkeys_file = "{tmp_path}/keys.json"\n'
    assert file_of(parse(text)) == tmp_path / "metrics-two.json"


@pytest.mark.parametrize("unsaved", [0, 1, 20])
def test_a_restart_is_no_reset(path: Path, rows: Rows, unsaved: int) -> None:
    """Killed at any time after a save, it folds again what it had not saved: as in one life."""
    whole = fresh(path.with_name("other"), rows).tally
    for cut in range(5, len(rows) - unsaved, 11):
        path.unlink(missing_ok=True)
        keeper = fresh(path, rows[:cut])
        keeper.save()
        keeper.begin(state_at(rows, cut))
        tell(keeper, rows[: cut + unsaved])
        assert fresh(path, rows).tally == whole


def test_the_file_is_for_its_owner_and_alone(path: Path, rows: Rows) -> None:
    """Written whole or not at all; it names no request, and no client."""
    fresh(path, rows).save()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"brain" not in path.read_bytes()


def test_without_a_file_nothing_is_said(path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    """A first start: it begins where the log ends."""
    assert MetricsKeeper(path, "orion:").position is None
    keeper = tell(MetricsKeeper(path, "orion:"), rows, len(rows))
    assert not keeper.tally.counts
    assert (keeper.position, caplog.messages) == (len(rows), [])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw.replace(b'"digest":"', b'"digest":3,"x":"'),
        lambda raw: raw.replace(b'"position":', b'"position":-'),
        lambda raw: raw.replace(b"done", b"\xff"),
        lambda raw: b"[" * 100_000,
        lambda raw: raw + b" " * MAX_FILE_BYTES,
    ],
    ids=["empty", "cut", "type", "negative", "utf8", "deep", "large"],
)
def test_a_damaged_file_is_a_reset_and_said_once(
    path: Path, rows: Rows, caplog: pytest.LogCaptureFixture, spoil: object
) -> None:
    """As Prometheus expects of counters that are lost; the next save mends it."""
    assert callable(spoil)
    fresh(path, rows).save()
    raw = path.read_bytes()
    assert spoil(raw) != raw
    path.write_bytes(spoil(raw))
    keeper = MetricsKeeper(path, "orion:")
    assert (keeper.position, keeper.tally) == (None, Tally())
    tell(keeper, rows, len(rows))
    assert [message.endswith(ANEW) for message in caplog.messages] == [True]
    assert str(path) in caplog.text
    keeper.save()
    assert MetricsKeeper(path, "orion:").position == len(rows)


def test_a_file_of_another_prefix_is_not_believed(
    path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """And it says whose it is."""
    fresh(path, rows).save()
    keeper = fresh(path, rows, prefix="house:")
    assert caplog.messages == [f"{path} is of the grid 'orion:': {ANEW}"]
    assert keeper.tally == fresh(path.with_name("none"), rows).tally


def another_day(rows: Rows) -> Rows:
    """A log that differs in its first head, an hour later."""
    events = [event_codec.decode(row) for row in rows]
    later = [
        replace(event, server_ms=event.server_ms + 3_600_000) if isinstance(event, ev.Committed) else event
        for event in events
    ]
    return mended([event_codec.encode(event) for event in later])


def test_a_file_of_another_log_is_not_believed(
    path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """The same prefix on another server: the running hash at its position is another."""
    half = len(rows) // 2
    fresh(path, rows[:half]).save()
    keeper = fresh(path, another_day(rows))
    assert [message.endswith(ANEW) for message in caplog.messages] == [True]
    other = another_day(rows)
    assert keeper.tally == tell(MetricsKeeper(path.with_name("none"), "orion:"), other, half).tally
    assert keeper.tally.counts


def test_a_log_that_lost_its_tail_is_another_one(
    path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends before the saved position, and goes on otherwise: the first commit that comes shows it."""
    fresh(path, rows).save()
    short = rows[: len(rows) // 2]
    grown = mended([*short, *another_day(rows)[: len(rows) // 4]])
    keeper = MetricsKeeper(path, "orion:")
    state = state_at(grown, len(short))
    keeper.begin(state)
    assert (keeper.position, caplog.messages) == (len(rows), [])
    for _, event in fold_each(state, enumerate(grown[len(short) :], len(short) + 1)):
        keeper.take(state.grid, event)
    assert caplog.messages == [f"the log has lost its tail, or is another one: {ANEW}"]
    assert keeper.position == len(grown) < len(rows)


def test_what_is_told_for_another_listener_counts_once(
    path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """One that begins earlier hears more; here it was counted."""
    whole = fresh(path.with_name("other"), rows).tally
    fresh(path, rows[: len(rows) // 2]).save()
    keeper = tell(MetricsKeeper(path, "orion:"), rows, 3)
    assert (keeper.tally, caplog.messages) == (whole, [])


def test_after_an_outage_it_goes_on(path: Path, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    """The log is loaded anew in the same life: where it was."""
    whole = fresh(path.with_name("other"), rows).tally
    keeper = MetricsKeeper(path, "orion:")
    for until in (20, 20, 50, len(rows)):
        tell(keeper, rows[:until])
    assert (keeper.tally, caplog.messages) == (whole, [])


def test_what_the_log_no_longer_holds_is_left_out_and_said(
    path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """The counters go on without it."""
    keeper = fresh(path, rows[:40])
    keeper.save()
    before = keeper.tally
    later = tell(MetricsKeeper(path, "orion:"), rows, len(rows))
    assert later.tally.counts == before.counts
    missing = len(rows) - 40
    assert caplog.messages == [
        f"/metrics has not counted {missing} events after position 40: too old, or no longer in the log"
    ]
    assert later.position == len(rows)


def test_only_what_is_new_is_written(path: Path, rows: Rows) -> None:
    """The position alone now and then, which is kind to SD cards; before the log is read nothing."""
    keeper = MetricsKeeper(path, "orion:")
    keeper.save()
    assert not path.exists()
    tell(keeper, rows)
    keeper.save()
    path.unlink()
    for _ in range(IDLE_SAVES - 1):
        keeper.save()
    assert not path.exists()
    keeper.save()
    assert path.exists()


def test_a_folder_that_cannot_be_written_is_said_once(
    path: Path, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """The counters go on; it says so again only after it worked."""
    path.parent.write_text("a file where the folder should be")
    keeper = fresh(path, rows)
    for _ in range(3):
        keeper.save()
    assert sum("cannot be written" in message for message in caplog.messages) == 1
    path.parent.unlink()
    keeper.save()
    assert path.exists()


async def test_it_saves_as_soon_as_it_has_begun(
    path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that who is killed at once knows where it was; then every SAVE_EVERY_S."""
    monkeypatch.setattr(metrics_keeper, "SAVE_EVERY_S", 0.01)
    caplog.set_level(logging.INFO)
    keeper = MetricsKeeper(path, "orion:")
    task = asyncio.create_task(keeper.keep())
    try:
        tell(keeper, rows[:30])
        await eventually(path.exists, "the first save")
        tell(keeper, rows)
        await eventually(lambda: MetricsKeeper(path, "orion:").tally == keeper.tally, "the next save")
    finally:
        task.cancel()
