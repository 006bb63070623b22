"""A short run of real kills on real servers, and what the command says of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.chaos.chaos_command import plan
from tests.chaos.chaos_faults import FAULTS
from tests.cli.conftest import Orion
from tests.cli.run_cli import ROOT, start

KEYS = """
seed requests answered kills faults lost duplicate_replies duplicate_dispatches repeated_generations
recovery_ms_p50 recovery_ms_p95 log_gaps diverged tail_repeats
"""


def chaos(home: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """`orion chaos --json WORDS` as a process: exit code, data, what it told meanwhile."""
    process = start(home, "chaos", "--json", *words)
    out, said = process.communicate()
    assert out, said
    return process.returncode, msgspec.json.decode(out), said


@pytest.mark.parametrize(
    ("server", "fsync"),
    [("valkey", "everysec"), pytest.param("redis", "always", marks=pytest.mark.everything)],
)
def test_nothing_is_lost_and_nothing_comes_twice(
    tmp_path: Path, server: str, fsync: str, everything: bool
) -> None:
    """Kills of everything, alone and mixed: every promise holds."""
    minutes = "0.4" if everything else "0.15"
    words = ("--minutes", minutes, "--seed", "5", "--server", server, "--fsync", fsync, "--log", "said.txt")
    code, told, said = chaos(tmp_path, *words)
    assert (code, told["broken"]) == (0, []), said
    assert told.keys() >= set(KEYS.split())
    assert told["servers"] == [f"{server} {fsync}"]
    assert min(told["requests"], told["kills"], told["decisions"], len(told["faults"])) > 0
    zeros = ("lost", "duplicate_replies", "duplicate_dispatches", "log_gaps", "diverged")
    assert [told[key] for key in zeros] == [0] * len(zeros)
    assert told["gone"] == 0 or fsync == "everysec"
    lines = (tmp_path / "said.txt").read_text(encoding="utf-8").splitlines()
    processes = {line.split("s  ")[1].partition(":")[0] for line in lines}
    assert {"chaos", "router", "router 2", "agent orion-master", "agent orion-worker"} <= processes


def test_every_round_has_another_server_and_another_way_of_writing() -> None:
    """Ten minutes are four rounds: both servers, each with both ways."""
    makes = {"valkey": None, "redis": Path("redis-server")}
    rounds = [(stage.server, stage.fsync) for stage in plan(10, 1, makes, "any")]
    assert sorted(rounds) == list(itertools.product(("redis", "valkey"), ("always", "everysec")))
    assert len(plan(0.3, 1, makes, "any")) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "nonsense"), "--only nonsense: no such fault (known: kill_agent, "),
        (("--fsync", "never"), "--fsync never: expected everysec, always or any"),
        (("--server", "kafka"), "--server kafka: "),
        (("--log", "/nowhere/at/all"), "--log /nowhere/at/all: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(orion: Orion, words: tuple[str, ...], said: str) -> None:
    """A name that is none: exit 78, one line that says what there is, and nothing was started."""
    code, out, err = orion("chaos", *words)
    assert (code, out) == (78, "")
    assert said in err
    assert err.count("\n") == 1


def test_every_fault_states_its_promise() -> None:
    """Names are unique, each says what has to hold all the same, and RELIABILITY.md has them all."""
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.promise and fault.targets for fault in FAULTS)
    document = (ROOT / "RELIABILITY.md").read_text()
    assert [fault.name for fault in FAULTS if f"| `{fault.name}` | {fault.promise} |" not in document] == []
