"""kill -9 at each step of the sender: before and after each noting and each sending. Nothing is lost,
and one message at most comes twice."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.agents.alert_stage import Got, hook
from tests.cli.run_cli import ROOT, environment

WHOLE = sorted(["+hot", "+full", "+queue", "+hot", "-full", "-hot", "-hot"])


async def played(home: Path, url: str, *how: str) -> list[tuple[int, int, int]]:
    """Every step, the exit code of the process that died there, and of the one that went on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.agents.alert_house", str(home), url, *how,
        cwd=ROOT, env=environment(home), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    rows = [tuple(int(word) for word in line.split()) for line in out.decode().splitlines()]
    return [(step, died, went_on) for step, died, went_on in rows]


def told(got: list[Got]) -> list[str]:
    """What these requests told, each message once, whatever came twice."""
    messages = {each.body["id"]: each.body for each in got}
    rows = [row for body in messages.values() for row in (*body["begun"], *body["ended"])]
    return sorted(("-" if "ended_ms" in row else "+") + row["rule"] for row in rows)


async def test_a_kill_at_any_step_repeats_one_message_at_most(tmp_path: Path) -> None:
    """Both targets know everything afterwards. After a send that was not noted it repeats exactly one,
    which shows that these kills are where they should be; the last process came to its end."""
    async with hook() as seen:
        steps = await played(tmp_path, seen.url)
    twice = Counter[int]()
    for step, died, went_on in steps:
        own = [each for each in seen.got if each.path.startswith(f"/{step}/")]
        for name in ("one", "two"):
            assert told([each for each in own if each.path.endswith(name)]) == WHOLE, (step, name)
        repeated = len(own) - len({(each.path, each.body["id"]) for each in own})
        assert repeated <= 1, f"killed at step {step}"
        assert (died, went_on) == (-signal.SIGKILL if step < len(steps) else 0, 0)
        twice[repeated] += 1
    assert twice[0] > twice[1] > 1


async def test_a_sender_that_notes_too_early_loses_a_message(tmp_path: Path) -> None:
    """The negative control: killed between its noting and its sending, a target never knows."""
    async with hook() as seen:
        steps = await played(tmp_path, seen.url, "careless")
    lost = [
        step
        for step, *_ in steps
        if told([each for each in seen.got if each.path == f"/{step}/one"]) != WHOLE
    ]
    assert lost
