"""A simulated node as a process: how it starts, says where it is, and stops."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from msgspec.structs import replace

import orion_streams
from orion_streams.demo.ollama import NodeSpec
from tests.helpers import WAIT_S, eventually
from tests.simulated_ollama.conftest import INSTANT

ROOT = Path(orion_streams.__path__[0]).parent
COMMAND = [sys.executable, "-m", "orion_streams.demo.ollama", "--spec"]


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "node.json"
    path.write_bytes(msgspec.json.encode(replace(INSTANT, decode_tokens_per_s=10)))
    return path


@contextmanager
def started(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed, if it still runs, when the block ends."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_process_says_where_it_is_and_stops_cleanly(spec_file: Path, sign: int) -> None:
    """One line of JSON on stdout when ready; a signal ends it with 0 and without a word."""
    with started(*COMMAND, spec_file) as process:
        line = ready(process)
        version = httpx.get(f"{line['url']}/api/version").json()
        process.send_signal(sign)
        out, err = process.communicate(timeout=WAIT_S)
    assert line == {"url": line["url"], "engine": "synthetic", "simulated": True}
    assert version == {"version": "0.24.0"}
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("sign", "clean"), [(signal.SIGTERM, True), (signal.SIGKILL, False)], ids=["polite", "killed"]
)
def test_a_stop_midway_ends_the_stream(spec_file: Path, sign: int, clean: bool) -> None:
    """A polite stop ends a stream cleanly but without `done: true`; a kill breaks it."""
    body = {"model": "gemma3:270m", "prompt": "hello"}
    lines = []
    broken = False
    with started(*COMMAND, spec_file) as process:
        url = ready(process)["url"] + "/api/generate"
        try:
            with httpx.stream("POST", url, json=body, timeout=WAIT_S) as answer:
                for line in answer.iter_lines():
                    lines.append(json.loads(line))
                    if len(lines) == 2:
                        process.send_signal(sign)
        except httpx.RemoteProtocolError:
            broken = True
        process.wait(timeout=WAIT_S)
    assert broken is not clean
    assert [line["done"] for line in lines] == [False] * len(lines)


async def test_a_process_does_not_outlive_its_parent(spec_file: Path, tmp_path: Path) -> None:
    """When the process that started it is killed, a node goes too."""
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline(), flush=True)\n"
        "child.wait()\n"
    )
    with started(sys.executable, "-c", parent, *COMMAND, spec_file) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline().split()[0]))
        assert child.is_running()
        process.kill()
        process.communicate()

    async def gone() -> bool:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

    await eventually(gone, "the node is gone")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"ports": 1}', "unknown field `ports`"),
        ('{"time_scale": 0.5}', "`$.time_scale`"),
        ('{"engine": "magic"}', "`$.engine`"),
        ("{", "truncated"),
    ],
)
def test_a_bad_spec_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    """A spec that makes no sense ends the process with 78 and names what is wrong."""
    path = tmp_path / "bad.json"
    path.write_text(content)
    done = subprocess.run(
        [*COMMAND, path], capture_output=True, text=True, cwd=ROOT, check=False, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_an_error_in_one_line(tmp_path: Path) -> None:
    """A node that cannot listen where it should ends with 1 and says why."""
    path = tmp_path / "node.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path.write_bytes(msgspec.json.encode(replace(INSTANT, port=taken.getsockname()[1])))
        done = subprocess.run(
            [*COMMAND, path], capture_output=True, text=True, cwd=ROOT, check=False, timeout=WAIT_S
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_spec_survives_its_file() -> None:
    """What is written as JSON is read as the same spec."""
    spec = NodeSpec(name="worker", ram_total_mb=8_000, seed=3)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=NodeSpec) == spec
