"""Supervision of child processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from orion_streams.errors import BackendError
from orion_streams.runtime import supervisor
from orion_streams.runtime.supervisor import Child
from tests.helpers import WAIT_S, eventually

READY = 'import sys, time; print(\'{"url": "here"}\', flush=True); '
FOREVER = "import threading; threading.Event().wait()"


class Told(list[str]):
    """What a child and its supervisor said."""

    def __call__(self, name: str, line: str) -> None:
        self.append(f"{name}: {line}")


def python(code: str) -> list[str]:
    """A child that runs some Python."""
    return [sys.executable, "-c", code]


async def test_a_ready_line_is_read_and_the_rest_is_passed_on() -> None:
    """`start` returns when the child has announced itself; what it prints then is heard line by line."""
    told = Told()
    child = Child("x", python(READY + "print('more', flush=True); " + FOREVER), announces=True, say=told)
    await child.start()
    assert child.announced == {"url": "here"}
    await eventually(lambda: told == ["x: more"], "its line")
    assert await child.stop() == -signal.SIGTERM
    assert child.pid is None


async def test_a_child_that_cannot_start_says_why() -> None:
    """No ready line: BackendError with the child's own last words."""
    child = Child("x", python("import sys; sys.exit('no disk')"), announces=True)
    with pytest.raises(BackendError, match="x did not start: no disk"):
        await child.start()


async def test_a_crash_is_followed_by_another_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed by -9 it is started again, and that is said with the signal's name."""
    monkeypatch.setattr(supervisor, "FIRST_S", 0.01)
    told = Told()
    child = Child("x", python(READY + FOREVER), announces=True, remark=told)
    await child.start()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: child.pid not in (None, first), "a second process")
    assert child.restarts == 1
    assert "ended with SIGKILL; starting it again in 0.0 s" in str(told)
    await child.stop()


async def test_what_another_start_cannot_mend_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 78, a bad configuration: it is not started again."""
    monkeypatch.setattr(supervisor, "FIRST_S", 0.01)
    told = Told()
    child = Child("x", python("import sys; print('bad key'); sys.exit(78)"), remark=told)
    await child.start()
    await eventually(lambda: child.gave_up, "the end")
    assert (child.restarts, child.last_words()) == (0, "bad key")
    assert "ended with exit code 78 (bad key); it is not started again" in str(told)
    await child.stop()


async def test_a_killed_child_stays_down_until_it_is_started() -> None:
    """`kill` is no crash: nothing restarts it but `start`."""
    child = Child("x", python(READY + FOREVER), announces=True)
    await child.start()
    await child.kill()
    assert (child.pid, child.restarts) == (None, 0)
    await child.start()
    assert child.pid is not None
    await child.stop()


async def test_a_stop_can_be_hurried() -> None:
    """Who takes long after SIGTERM gets SIGINT, too, and is not killed; without a process: nothing."""
    told = Told()
    code = f"import signal; signal.signal(signal.SIGTERM, lambda *_: print('slowly', flush=True)); {READY}"
    child = Child("x", python(code + FOREVER), announces=True, say=told, remark=told)
    child.hurry()
    await child.start()
    stopping = asyncio.create_task(child.stop(WAIT_S))
    await eventually(lambda: "x: slowly" in told, "its answer to SIGTERM")
    assert not stopping.done()
    child.hurry()
    assert await stopping == -signal.SIGINT
    assert not any("killed" in each for each in told)


async def test_a_stop_is_bounded() -> None:
    """Who ignores SIGTERM is killed after the grace, and that is said."""
    told = Told()
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    child = Child("x", python(deaf + READY + FOREVER), announces=True, remark=told)
    await child.start()
    assert await child.stop(grace_s=0.2) == -signal.SIGKILL
    assert "did not stop" in str(told)


async def test_a_ctrl_c_in_the_terminal_does_not_reach_a_child() -> None:
    """A child has a process group of its own, so its parent decides when it stops."""
    child = Child("x", python(READY + FOREVER), announces=True)
    await child.start()
    assert child.pid is not None
    assert os.getpgid(child.pid) != os.getpgid(0)
    await child.stop()
