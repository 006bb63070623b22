"""A log in which alerts begin and end, and a sender that follows it; also as processes that die at a step.

    python -m tests.agents.alert_house FOLDER URL [careless]

For each step, until there is no further one: a process that dies by SIGKILL there, then one that goes on.
Steps are before and after everything that makes something durable or sends it. Each exit code is printed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orion_streams.agents import alert_file
from orion_streams.agents.alert_file import Outbox, SenderState
from orion_streams.agents.alert_sender import Sender
from orion_streams.agents.alert_targets import Target
from orion_streams.model import events as ev
from orion_streams.model.alert_rules import AlertRule, AlertTarget
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.state import Grid
from orion_streams.projections import apply
from orion_streams.protocol.alert_messages import Message
from orion_streams.protocol.commit_builder import LoggedGrid

RULES = (
    AlertRule("hot", "hot", for_ms=0),
    AlertRule("full", "full", for_ms=0),
    AlertRule("queue", "queue", over=0, for_ms=0),
)
QUICK = AlertTarget(group_ms=0, tries=2, timeout_ms=60_000)
S, MOST_STEPS = 1_000, 200


def house() -> list[ev.AnyEvent]:
    """A node grows hot and cools down, grows full, and something waits."""

    def sample(**values: int) -> ev.NodeSampled:
        usual: dict[str, Any] = {
            "temp_mc": 50_000,
            "ram_used_mb": 2_000,
            "ram_total_mb": 8_000,
            "cpu_permille": 100,
        }
        return ev.NodeSampled(node="n", boot="b", sampled_ms=0, **{**usual, **values})

    rules = ev.PolicyChanged(1, "p", Policy(), (NodeRules("n"),))
    hot, full, well = sample(temp_mc=80_000), sample(ram_used_mb=7_900), sample()
    asked = ev.RequestAccepted("brain/q", "1-0", "chat", "m:1", 600_000, 10, 4)  # type: ignore[arg-type]
    told: list[list[ev.AnyEvent]] = [
        [rules, well],
        [hot],
        [hot],
        [well],
        [full, asked],
        [full],
        [well],
        [well],
        [hot],
        [well],
        [well],
    ]
    events: list[ev.AnyEvent] = []
    for number, rows in enumerate(told, 1):
        events += [ev.Committed(number, 1_000_000 + number * S, len(rows), True, ""), *rows]
    return events


def follow(sender: Sender, events: list[ev.AnyEvent]) -> None:
    """Let a sender follow a log from its position on, as a GridFollower does."""
    grid, position = Grid(), sender.position or 0
    for event in events[:position]:
        apply(grid, event)
    sender.begin(LoggedGrid(grid))
    for event in events[position:]:
        apply(grid, event)
        sender.take(grid, event)


async def all_told(sender: Sender) -> None:
    """Tell each target what waits for it."""
    for name in list(sender.state.outboxes):
        await sender.deliver(name)


class Steps:
    """Counts steps, and ends the process by SIGKILL at one of them."""

    def __init__(self, last: int) -> None:
        self._last, self._count = last, 0

    def step(self) -> None:
        """Come to the next step."""
        self._count += 1
        if self._count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalTarget(Target, frozen=True, kw_only=True):
    """A target whose process may die before and after it is told."""

    step: Callable[[], None]

    async def tell(self, message: Message) -> str:
        self.step()
        answer = await super().tell(message)
        self.step()
        return answer


class Careless(Sender):
    """Notes that a message was told before it is: the negative control."""

    async def _send(self, name: str, outbox: Outbox) -> None:
        message, outbox.sending = outbox.sending, None
        self.note()
        outbox.sending = message
        await super()._send(name, outbox)


async def send(path: Path, url: str, last: int, kind: type[Sender]) -> None:
    """Go on where the file says, tell everything, and end; or die at a step (0: at none)."""
    steps = Steps(last)

    def save(state: SenderState) -> None:
        steps.step()
        alert_file.write(path, state)
        steps.step()

    state = alert_file.read(path, "orion:") or SenderState("orion:", position=0)
    targets = [MortalTarget(name, QUICK, f"{url}/{name}", step=steps.step) for name in ("one", "two")]
    sender = kind(RULES, targets, state, save)
    follow(sender, house())
    await all_told(sender)
    sender.note()


def forked(path: Path, url: str, last: int, kind: type[Sender]) -> int:
    """`send` as a process of its own; its exit code."""
    pid = os.fork()
    if not pid:
        asyncio.run(send(path, url, last, kind))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: str, url: str, kind: type[Sender]) -> None:
    """Die at each step, and go on."""
    for step in range(1, MOST_STEPS):
        path, own = Path(folder) / f"{step}.json", f"{url}/{step}"
        codes = (forked(path, own, step, kind), forked(path, own, 0, kind))
        print(step, *codes, flush=True)
        if codes[0] == 0:
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Careless if "careless" in sys.argv else Sender)
