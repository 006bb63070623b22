"""Law 3: the same state gives the same decision, on any machine, in any process, under any Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orion_streams.decider.decide import decide
from orion_streams.decider.placement import demand_of, plan
from orion_streams.decider.route import route
from orion_streams.model.snapshot import decode_grid, encode_grid
from orion_streams.model.state import Grid, Request
from tests.helpers import WAIT_S
from tests.properties import strategies as make
from tests.properties.decisions import GOLDEN, lines

ROOT = Path(__file__).parents[2]
OTHERS = ("python3.11", "python3.12", "python3.13", "python3.14")


def of_a_process(python: str, hash_seed: str, *arguments: str) -> list[str]:
    """What another process decides."""
    command = [python, "-m", "tests.properties.decisions", *arguments]
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=WAIT_S
    )
    return done.stdout.splitlines()


def pythons() -> list[str]:
    """This interpreter, and those of the machine that have msgspec."""
    found = [sys.executable]
    for name in OTHERS:
        path = shutil.which(name)
        probe = [str(path), "-c", "import msgspec, sys; sys.exit(sys.version_info < (3, 11))"]
        if path and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


def test_decisions_are_those_of_the_golden_file() -> None:
    """Whatever Python runs this, its decisions are the ones that were written down."""
    golden = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert list(lines()) == golden, "understood? python -m tests.properties.decisions > the golden file"


def test_the_golden_file_has_seen_every_kind_of_answer() -> None:
    """The scenarios are worth something: all kinds of decisions are among them."""
    text = GOLDEN.read_text(encoding="utf-8")
    for tag in (
        "request.routed", "request.deferred", "request.expired", "node.backed_off",
        "model.unload_ordered", "model.load_ordered", "busy", "no_node",
    ):  # fmt: skip
        assert tag in text


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_another_process_decides_the_same(hash_seed: str) -> None:
    """Neither the process nor the seed of its hashes matters, nor the order of the nodes."""
    backwards = ("backwards",) if hash_seed == "1" else ()
    assert of_a_process(sys.executable, hash_seed, *backwards) == list(lines())


def test_every_python_of_the_machine_decides_the_same() -> None:
    """All interpreters that can import the library agree."""
    expected = list(lines())
    for python in pythons():
        assert of_a_process(python, "7") == expected, python


@make.FEW
@given(make.queues(), make.requests(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(some: Grid, asked: Request, random: Any) -> None:
    """The same nodes in another order give the same route, the same answers and the same plan."""
    names = list(some.nodes)
    random.shuffle(names)
    shuffled = replace(some, nodes={name: some.nodes[name] for name in names})
    assert bytes_of(some, asked) == bytes_of(shuffled, asked)


@make.FEW
@given(make.queues(), make.requests())
def test_a_grid_from_its_bytes_decides_the_same(some: Grid, asked: Request) -> None:
    """A snapshot is as good as the history."""
    assert bytes_of(decode_grid(encode_grid(some)), asked) == bytes_of(some, asked)


def bytes_of(some: Grid, asked: Request) -> list[bytes]:
    """All that is decided about a grid."""
    planned = plan(some, demand_of(some))
    decided = (route(some, asked), decide(some), planned)
    return [msgspec.json.encode(each) for each in decided]


def test_a_decision_by_hash_order_would_show() -> None:
    """Negative control: what a set's order decides differs between processes."""
    code = "print(next(iter({'orion-master', 'orion-worker', 'orion-spare', 'orion-edge'})))"
    seen = set()
    for hash_seed in range(8):
        env = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        command = [sys.executable, "-S", "-c", code]
        seen.add(subprocess.run(command, env=env, capture_output=True, check=True, timeout=WAIT_S).stdout)
    assert len(seen) > 1
