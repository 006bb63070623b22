"""Tells people of alerts: hears what begins and ends, groups it, and tells each target once.

What is to be told is noted in the file before anything is sent, with the position of the log that it came
from: a crash before that reads the log again, one after it sends what is noted. A message is taken from the
file once it was told, and only one is on its way at a time: so a crash repeats one at most, and loses none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from orion_streams.agents.alert_file import Outbox, SenderState
from orion_streams.agents.alert_targets import Target
from orion_streams.errors import TellError
from orion_streams.model import events as ev
from orion_streams.model.alert_rules import AlertRule
from orion_streams.model.state import Grid
from orion_streams.projections.alerts import AlertChange, AlertFold, Fact, Moment
from orion_streams.protocol.alert_messages import MOST_LISTED, Message, message_of, says
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.runtime.connection import end_if_cancelled

log = logging.getLogger("orion.alerts")

HOUR_MS = 3_600_000
SAVE_EVERY_S = 60.0
"""How often it is noted how far a quiet log was read."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
Save = Callable[[SenderState], None]


def pause_s(tried: int) -> float:
    """Return how long to wait after so many tries: 2, 8, 32, 128 s, then 5 minutes each."""
    return min(FIRST_PAUSE_S * 4.0 ** min(tried - 1, 8), LONGEST_PAUSE_S)


class Sender:
    """Hears the log as a listener of GridFollower, and what is `seen` live; `run` tells the targets.

    `save` makes a state durable. `now_ms` is the wall clock, by which messages of an hour are counted.
    """

    def __init__(
        self,
        rules: Sequence[AlertRule],
        targets: Sequence[Target],
        state: SenderState,
        save: Save,
        *,
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
        pause_s: Callable[[int], float] = pause_s,
    ) -> None:
        self.state, self._rules, self._targets = state, rules, {each.name: each for each in targets}
        self._save, self._now_ms, self._pause_s = save, now_ms, pause_s
        self._fold: AlertFold | None = None
        self._noted: int | None = state.position
        self._one_at_a_time = asyncio.Lock()
        self._news = {name: asyncio.Event() for name in self._targets}
        state.outboxes = {name: state.outboxes.get(name, Outbox()) for name in self._targets}
        state.live.since_ms.clear()  # by a clock of the process before
        for name, outbox in state.outboxes.items():
            if outbox.waiting or outbox.sending is not None:
                self._news[name].set()

    @property
    def position(self) -> int | None:
        """The last event that it knows."""
        return self.state.position

    def begin(self, state: LoggedGrid) -> None:
        """Go on from a state of the log."""
        grid, before = state.grid, self.state.position
        if before is not None and grid.position != before:
            log.warning("read to position %d, the log goes on at %d", before, grid.position)
        self._fold = AlertFold(self._rules, grid, self.state.folded)
        self.state.position = grid.position
        if before is None:
            self.note()

    def take(self, grid: Grid, event: ev.AnyEvent) -> None:
        """Hear an event of the log."""
        assert self._fold is not None  # noqa: S101 - `begin` came before
        changes = self._fold.take(grid, event)
        self.state.position = grid.position
        self._tell(changes)

    def see(self, rule: AlertRule, facts: dict[str, Fact], now: Moment) -> None:
        """Hear what only this process sees; `now.at_ms` is of a clock that does not jump."""
        self._tell(list(self.state.live.judge(rule, facts, now)))

    def forget_live(self, rules: Sequence[AlertRule], now: Moment) -> None:
        """End what was seen live by a rule that is no more."""
        self._tell(list(self.state.live.forget(rules, now)))

    def note(self) -> None:
        """Make durable what is known."""
        self._save(self.state)
        self._noted = self.state.position

    def _tell(self, changes: Sequence[AlertChange]) -> None:
        """Note what is to be told to each target."""
        if not changes:
            return
        for each in changes:
            log.info("%s: %s", "over" if each.ended else each.alert.severity, says(each.alert))
        for outbox in self.state.outboxes.values():
            add(outbox, changes)
        self.note()
        for event in self._news.values():
            event.set()

    async def run(self) -> None:
        """Tell the targets until cancelled. Raise OrionError if the file cannot be written."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._targets:
                tasks.create_task(self._serve(name))
            tasks.create_task(self._note_now_and_then())

    async def _note_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            if self._noted != self.state.position:
                self.note()

    async def _serve(self, name: str) -> None:
        """Tell one target what waits for it, message by message."""
        news = self._news[name]
        while True:
            end_if_cancelled()
            await news.wait()
            news.clear()
            await self.deliver(name)

    async def deliver(self, name: str) -> None:
        """Tell one target all that waits for it now."""
        outbox, rules = self.state.outboxes[name], self._targets[name].rules
        while outbox.waiting or outbox.sending is not None:
            if outbox.sending is None:
                await asyncio.sleep(rules.group_ms / 1000)
                await asyncio.sleep(self._wait_ms(outbox, rules.most_per_hour) / 1000)
                self._compose(outbox)
            await self._send(name, outbox)

    def _wait_ms(self, outbox: Outbox, most: int) -> int:
        """Return for how long the target gets no further message: in any hour at most so many. What lies in
        the future, by a clock that was put back, does not count."""
        now_ms = self._now_ms()
        recent = [each for each in outbox.sent_ms if 0 <= now_ms - each < HOUR_MS]
        outbox.sent_ms = recent[-most:]
        return max(recent[-most] + HOUR_MS - now_ms, 0) if len(recent) >= most else 0

    def _compose(self, outbox: Outbox) -> None:
        """Make one message of all that waits, and note it."""
        state = self.state
        state.number += 1
        outbox.sending = message_of(state.number, state.prefix, outbox.waiting, outbox.left_out)
        outbox.waiting, outbox.left_out = [], 0
        self.note()

    async def _send(self, name: str, outbox: Outbox) -> None:
        """Tell one message, with growing pauses between its tries; one that nobody takes is counted in the
        next one."""
        message, target = outbox.sending, self._targets[name]
        assert message is not None  # noqa: S101 - it was composed
        for tried in range(1, target.rules.tries + 1):
            async with self._one_at_a_time:
                try:
                    answer = await target.tell(message)
                except TellError as error:
                    log.warning("%s was not told (try %d): %s", name, tried, error)
                else:
                    outbox.sent_ms.append(self._now_ms())
                    outbox.sending = None
                    self.note()
                    log.info("%s was told: %s", name, answer)
                    return
            if tried < target.rules.tries:
                await asyncio.sleep(self._pause_s(tried))
        lines = lines_of(message)
        log.error("%s was not told in %d tries: given up, with %d alerts", name, target.rules.tries, lines)
        outbox.left_out += lines
        outbox.sending = None
        self.note()


def add(outbox: Outbox, changes: Iterable[AlertChange]) -> None:
    """Add what is to be told; of more than one message lists, the oldest is left out and counted."""
    outbox.waiting.extend(changes)
    surplus = max(len(outbox.waiting) - MOST_LISTED, 0)
    del outbox.waiting[:surplus]
    outbox.left_out += surplus


def lines_of(message: Message) -> int:
    """Return how many alerts a message stands for."""
    return len(message.begun) + len(message.ended) + message.left_out
