"""A command gets JSON on its stdin, no shell, and so much time; nothing of it is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from orion_streams.agents.alert_command import run_command
from orion_streams.agents.alert_targets import Target
from orion_streams.errors import TellError
from orion_streams.model.alert_rules import AlertTarget
from orion_streams.protocol.alert_messages import Message, trial
from tests.helpers import eventually

SECRET = "s3cr3t"
FOREVER = "import signal as s, threading; s.signal(s.SIGTERM, s.SIG_IGN); threading.Event().wait()"


def script(folder: Path, text: str) -> tuple[str, ...]:
    """A program in Python as a command."""
    path = folder / "program.py"
    path.write_text(text)
    return (sys.executable, str(path))


def names_in(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(each.name for each in folder.iterdir())


async def test_it_gets_the_message_as_json(tmp_path: Path) -> None:
    """And its arguments as they are: no shell looks at them."""
    seen = tmp_path / "seen"
    text = f"import sys; open({str(seen)!r}, 'w').write(sys.argv[1] + '\\n' + sys.stdin.read())"
    word = "$(touch evil); `id` > x | y"
    target = Target("phone", AlertTarget(command=(*script(tmp_path, text), word)))
    message = trial("orion:", "phone")
    assert await target.tell(message) == "the command ended well"
    first, _, rest = seen.read_text().partition("\n")
    assert first == word
    assert msgspec.json.decode(rest, type=Message) == message
    assert names_in(tmp_path) == ["program.py", "seen"]


async def test_it_is_given_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ORION_ variables hold is not in its environment; what else is there, is."""
    monkeypatch.setenv("ORION_ALERT_TOKEN_PHONE", SECRET)
    monkeypatch.setenv("HOUSE_COLOUR", "red")
    text = (
        "import os, sys\n"
        "ours = any(name.startswith('ORION_') for name in os.environ)\n"
        "sys.exit(ours or 'HOUSE_COLOUR' not in os.environ)"
    )
    assert await run_command(script(tmp_path, text), b"{}", 60.0) == "the command ended well"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"import sys; print('{SECRET}'); sys.exit(3)", "the command ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "the command ended with SIGKILL"),
        (f"raise ValueError('{SECRET}')", "the command ended with exit code 1"),
    ],
)
async def test_how_it_ended_is_said_without_its_words(tmp_path: Path, text: str, says: str) -> None:
    """What it prints may hold a secret."""
    with pytest.raises(TellError) as caught:
        await run_command(script(tmp_path, text), b"{}", 60.0)
    assert str(caught.value) == says


@pytest.mark.parametrize("argv", [("/nowhere/at-all",), (sys.executable, "a\0b")])
async def test_one_that_cannot_be_run_is_said(argv: tuple[str, ...]) -> None:
    """Without its arguments."""
    with pytest.raises(TellError, match="the command cannot be run: "):
        await run_command(argv, b"{}", 60.0)


async def test_it_need_not_read_and_may_say_any_amount(tmp_path: Path) -> None:
    """A message that is larger than a pipe, and megabytes of output, hold nobody up."""
    text = "import sys; sys.stdout.write('x' * 5_000_000); sys.stderr.write('y' * 5_000_000)"
    assert await run_command(script(tmp_path, text), b"x" * 1_000_000, 60.0) == "the command ended well"


async def test_after_its_time_it_is_killed_with_its_children(tmp_path: Path) -> None:
    """Also one that ignores SIGTERM, and what it started."""
    pids = tmp_path / "pids"
    text = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        f"open({str(pids)!r} + '.new', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(pids)!r} + '.new', {str(pids)!r})\n{FOREVER}\n"
    )
    command, limit_s = script(tmp_path, text), 1.0
    while not pids.exists():  # a busy machine may need longer to start them
        with pytest.raises(TellError, match="was killed"):
            await run_command(command, b"{}", limit_s)
        limit_s *= 2
    await gone([int(pid) for pid in pids.read_text().split()])


async def test_what_it_leaves_behind_is_killed_when_it_ends(tmp_path: Path) -> None:
    """A child in its background does not outlive it."""
    pid = tmp_path / "pid"
    text = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
    )
    await run_command(script(tmp_path, text), b"{}", 60.0)
    await gone([int(pid.read_text())])


async def gone(pids: list[int]) -> None:
    """Wait until none of these processes runs; a zombie that init has not reaped yet does not."""

    def over(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    assert os.getpid() not in pids
    await eventually(lambda: all(over(pid) for pid in pids), "the end of the command's processes")
