"""Which nodes lack a model that others have: as doctor says it, and `orion models`."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orion_streams.cli import tables
from orion_streams.cli.doctor.doctor_command import Diagnosis, diagnose, told
from orion_streams.cli.doctor.findings import Facts, Finding
from orion_streams.cli.doctor.model_findings import SHOWN, models
from orion_streams.gateway import view_models
from orion_streams.model.state import Installed
from tests.cli.doctor_facts import healthy, pi
from tests.grids import BIG, DISK, HEAVY, LIBRARY, MODEL, node
from tests.grids import grid as grid_of


def test_models_say_which_nodes_lack_them_and_what_brings_them_there() -> None:
    """A node without any model is named, too; a model that all have, or that is only in memory, is not."""
    full, half, empty = (
        node("a"),
        replace(node("b"), installed={MODEL: DISK[MODEL]}),
        replace(node("c"), installed={}),
    )
    found = view_models.model_rows(grid_of(full, half, empty))
    assert tables.lacking(found, may_pull=True) == [
        f"{MODEL} is not on c: orion pull {MODEL} --node c",
        f"{HEAVY} is not on b, c: orion pull {HEAVY} --node b --node c",
    ]
    assert (
        tables.lacking(found, may_pull=False)[1] == f"{HEAVY} is not on b, c: ollama pull {HEAVY} on b, c"
    )
    assert tables.lacking(view_models.model_rows(grid_of(full, node("b"))), may_pull=True) == []


def test_lines_are_said_as_this_program_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout `orion` alone is no program; names and paths that only begin so stay as they are."""
    monkeypatch.setenv("ORION_COMMAND", "./orion")
    full, empty = node("a"), replace(node("b"), installed={})
    rows = view_models.model_rows(grid_of(full, empty))
    assert f": ./orion pull {MODEL} --node b" in tables.lacking(rows, may_pull=True)[0]
    kept = "orion-worker /etc/orion 3 keys under orion: me@orion then"
    found = Diagnosis("ok", "", [Finding("ok", "a", "look: orion models", "orion resume pi"),
                                 Finding("ok", "b", kept)])  # fmt: skip
    assert [(each.what, each.mend) for each in told(found).findings] == [
        ("look: ./orion models", "./orion resume pi"),
        (kept, ""),
    ]


def on_one_node(facts: Facts) -> list[str]:
    """What is said of models."""
    return [each.what for each in models(facts) if each.severity == "ok" and not each.mend]


def with_disks(**disks: dict[str, Installed]) -> Facts:
    """A healthy grid whose nodes have these models on disk."""
    facts = healthy()
    assert facts.grid is not None
    for name, installed in disks.items():
        facts.grid.nodes[name] = pi(name, installed=installed)
    return facts


def test_a_model_that_one_node_alone_has_is_said_with_the_line_that_changes_it() -> None:
    """No fault: doctor ends well. The control: on both, nothing is said."""
    assert on_one_node(healthy()) == []
    facts = with_disks(pi2={MODEL: LIBRARY[MODEL]})
    assert on_one_node(facts) == [f"{HEAVY} is on one node only: ollama pull {HEAVY} on pi2"]
    facts.config = replace(facts.config, pull_from=("registry.ollama.ai",))
    assert on_one_node(facts) == [f"{HEAVY} is on one node only: orion pull {HEAVY} --node pi2"]
    assert diagnose(facts).severity == "ok"
    assert "models" in {each.about for each in diagnose(facts).findings}


def test_a_model_that_is_too_large_elsewhere_or_perhaps_there_is_not_said() -> None:
    """BIG fits nowhere else; a node whose list is unknown may have it; spelt otherwise it is the same."""
    assert on_one_node(with_disks(pi={**DISK, BIG: LIBRARY[BIG]})) == []
    facts = with_disks(pi2={})
    assert len(on_one_node(facts)) == len(DISK)
    assert facts.grid is not None
    facts.grid.nodes["pi2"] = pi("pi2", installed={}, inventory_known=False)
    assert on_one_node(facts) == []
    assert on_one_node(with_disks(pi2={name.upper(): row for name, row in DISK.items()})) == []


def test_few_of_many_models_are_named() -> None:
    """A house with one full disk is not told of it in fifty lines."""
    many = {f"m{number:02}": LIBRARY[MODEL] for number in range(12)}
    said = on_one_node(with_disks(pi={**DISK, **many}))
    assert said[SHOWN:] == ["7 more are on one node only: orion models"]
    assert len(said) == SHOWN + 1
