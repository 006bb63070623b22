"""Changed rules: what may be set, what is refused, and what is said."""

from __future__ import annotations

import pytest
from msgspec.structs import asdict, replace

from orion_streams.config import parse
from orion_streams.errors import EXIT_BAD_CONFIG, ConfigError
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.replay.rule_changes import change_of, check_names, notes_on

RULES = ev.PolicyChanged(
    1,
    "p",
    Policy(),
    (
        NodeRules("orion-edge", inference=False),
        NodeRules("orion-master"),
        NodeRules("orion-worker", slots=2),
    ),
    {"llama3.2:3b": ModelRules(num_ctx=8_192)},
)


def test_a_change_of_nothing_changes_nothing() -> None:
    """Without settings the very same event comes out."""
    assert change_of([]).of(RULES) == RULES


@pytest.mark.parametrize(
    ("setting", "table", "key", "value"),
    [
        ("policy.temp_max_mc=74000", "policy", "temp_max_mc", 74_000),
        ("policy.spill_forbidden = [1]", "policy", "spill_forbidden", (1,)),
        ("nodes.orion-worker.slots=4", "nodes", "slots", 4),
        ('models."llama3.2:3b".num_ctx=2048', "models", "num_ctx", 2_048),
        ('models.mistral.resident_on=["orion-worker"]', "models", "resident_on", ("orion-worker",)),
    ],
)
def test_one_key_is_set_and_nothing_else(setting: str, table: str, key: str, value: object) -> None:
    """A value is read as TOML; everything beside it stays."""
    rules = replace(
        RULES, nodes=tuple(replace(each, tiers=(1,)) if each.inference else each for each in RULES.nodes)
    )
    changed = change_of([setting]).of(rules)
    if table == "policy":
        assert asdict(changed.policy) == {**asdict(rules.policy), key: value}
        assert (changed.nodes, changed.models) == (rules.nodes, rules.models)
    elif table == "nodes":
        was = {**asdict(rules.nodes[2]), key: value}
        assert [asdict(each) for each in changed.nodes] == [*map(asdict, rules.nodes[:2]), was]
    else:
        [name] = [each for each in changed.models if changed.models[each] != rules.models.get(each)]
        assert name in ("llama3.2:3b", "mistral:latest")
        assert asdict(changed.models[name]) == {**asdict(rules.models.get(name, ModelRules())), key: value}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["policy.temp_return_mc=75000"],
            "policy.temp_return_mc = 75000: expected less than policy.temp_max_mc (75000",
        ),
        (["policy.temp_max_mc=1"], "policy.temp_max_mc = 1: expected thousandths of a degree"),
        (
            ["policy.temp_max_mc=70000", "policy.temp_return_mc=70000"],
            "policy.temp_return_mc = 70000: expected less than policy.temp_max_mc (70000)",
        ),
        (
            ["policy.temp_max_mc=95000"],
            "policy.temp_max_mc = 95000: expected less than policy.temp_critical_mc (85000",
        ),
        (["policy.temp_maxmc=1"], "policy.temp_maxmc: no such key; did you mean temp_max_mc?"),
        (['policy.temp_max_mc="hot"'], 'policy.temp_max_mc = "hot": expected a whole number, e.g.'),
        (["policy.temp_max_mc=0"], "policy.temp_max_mc = 0: expected a whole number of at least 1"),
        (
            ["nodes.orion-worker.slots=0"],
            "nodes.orion-worker.slots = 0: expected a whole number of at least 1",
        ),
        (["nodes.orion-edge.inference=true"], "orion-edge is the robot and never runs inference"),
        (['nodes.orion-worker.ollama="http://x"'], "nodes.orion-worker.ollama: no decision reads it"),
        (['models."a:1".resident_on=["orion-wrk"]'], "models.a:1.resident_on: 'orion-wrk' is no inference"),
        (["models.llama3.2:3b.num_ctx=1"], 'as in models."llama3.2:3b".num_ctx=8192'),
        (["polcy.spill_ms=1"], "did you mean policy?"),
        (["policy={}"], "expected one of policy.KEY"),
        (["policy.spill_ms"], "expected KEY=VALUE"),
        (["policy.spill_ms=1\npolicy.retry_ms=1"], "expected one of policy.KEY"),
    ],
)
def test_what_no_streams_toml_could_hold_is_refused(settings: list[str], said: str) -> None:
    """One ConfigError that repeats the option, names the key and says what was expected."""
    with pytest.raises(ConfigError) as error:
        change_of(settings).of(RULES)
    assert str(error.value).startswith(f"--set {settings[0]}")
    assert said in str(error.value)
    assert error.value.exit_code == EXIT_BAD_CONFIG


def test_settings_are_judged_together() -> None:
    """Two that contradict the rules alone may make sense as a pair."""
    changed = change_of(["policy.temp_max_mc=70000", "policy.temp_return_mc=65000"]).of(RULES)
    assert (changed.policy.temp_max_mc, changed.policy.temp_return_mc) == (70_000, 65_000)


@pytest.mark.parametrize(
    ("settings", "temp_return_mc", "ram_return_permille"),
    [
        (["policy.temp_max_mc=70000"], 65_000, 850),
        (["policy.temp_max_mc=71000"], 70_000, 850),
        (["policy.ram_max_permille=800"], 70_000, 750),
        (["policy.ram_max_permille=800", "policy.ram_return_permille=799"], 70_000, 799),
        (["policy.temp_max_mc=21000"], 16_000, 850),
    ],
)
def test_a_mark_takes_the_one_of_return_along(
    settings: list[str], temp_return_mc: int, ram_return_permille: int
) -> None:
    """As far below as it was, where it could not stay, unless it is set as well; a note says so."""
    change = change_of(settings)
    policy = change.of(RULES).policy
    assert (policy.temp_return_mc, policy.ram_return_permille) == (temp_return_mc, ram_return_permille)
    assert policy == replace(
        RULES.policy,
        temp_max_mc=policy.temp_max_mc,
        ram_max_permille=policy.ram_max_permille,
        temp_return_mc=temp_return_mc,
        ram_return_permille=ram_return_permille,
    )
    moved = [
        f"policy.{name} goes along, to {getattr(policy, name)}: a node returns below the mark"
        for name in ("temp_return_mc", "ram_return_permille")
        if getattr(policy, name) != getattr(RULES.policy, name)
        and not any(name in each for each in settings)
    ]
    assert notes_on(change, (), RULES.policy, policy) == moved


def test_what_only_limits_contradict_is_allowed() -> None:
    """The log does not say how often health comes, and --set cannot either."""
    assert change_of(["policy.stale_ms=1500"]).of(RULES).policy.stale_ms == 1_500


def test_what_the_log_already_contradicts_is_not_blamed_on_the_change() -> None:
    """Rules of old may be such as nobody could write today."""
    old = replace(RULES, policy=replace(RULES.policy, ram_margin_permille=950))
    assert change_of(["policy.spill_ms=1"]).of(old).policy.spill_ms == 1


def test_without_a_node_it_takes_no_inference() -> None:
    """It stays in the house; the others are as they were, also where a model was pinned to it."""
    pinned = replace(RULES, models={"a:1": ModelRules(resident_on=("orion-worker",))})
    changed = change_of(["policy.spill_ms=1"], ["orion-worker"]).of(pinned)
    assert [each.inference for each in changed.nodes] == [False, True, False]
    assert change_of([], ["orion-worker"]).of(pinned).models == pinned.models


def test_without_every_node_there_is_nothing_to_ask() -> None:
    """The option that takes the last one is named."""
    with pytest.raises(ConfigError, match="--without orion-master --without orion-worker: no node"):
        change_of([], ["orion-master", "orion-worker"]).of(RULES)


def test_another_file_brings_its_rules_and_settings_go_on_top() -> None:
    """Policy, nodes and models are the file's; revision and version of the code the log's."""
    file = parse(
        '[nodes.n1]\nslots = 3\n[models."a:1"]\nnum_ctx = 9\n[policy]\nspill_ms = 7\nretry_ms = 8\n'
    )
    changed = change_of(["policy.retry_ms=9"], file=file).of(RULES)
    assert (changed.policy.spill_ms, changed.policy.retry_ms) == (7, 9)
    assert changed.nodes == (NodeRules("n1", slots=3),)
    assert changed.models == {"a:1": ModelRules(num_ctx=9)}
    assert (changed.revision, changed.decider) == (RULES.revision, RULES.decider)


@pytest.mark.parametrize(
    ("settings", "without", "said"),
    [
        (["nodes.orion-wroker.slots=2"], [], "--set nodes.orion-wroker.slots=2: the log has no node"),
        (
            [],
            ["orion-workr"],
            "--without orion-workr: the log has no node orion-workr; did you mean orion-w",
        ),
        ([], ["x"], r"\(known: orion-master, orion-worker\)"),
    ],
)
def test_a_node_that_the_log_never_had_is_named(settings: list[str], without: list[str], said: str) -> None:
    """A change of it would change nothing, silently."""
    with pytest.raises(ConfigError, match=said):
        check_names(change_of(settings, without), ["orion-worker", "orion-master"])
    check_names(
        change_of(["nodes.orion-worker.slots=2"], ["orion-master"]), ["orion-worker", "orion-master"]
    )


def test_what_changes_less_than_it_seems_is_said() -> None:
    """Keys that are read at intake, or by nobody, and models that no node ever had; nothing of others."""
    settings = [
        "policy.max_open=1",
        "nodes.n.ram_mb=1",
        'models."lama:3b".prior_tokens=5',
        "policy.spill_ms=1",
    ]
    change = change_of(settings)
    notes = notes_on(change, ["llama:3b"], RULES.policy, change.of(RULES).policy)
    assert [note.partition(" ")[0].rstrip(":") for note in notes] == [
        "policy.max_open",
        "nodes.n.ram_mb",
        'models."lama:3b".prior_tokens',
    ]
    assert notes[-1].endswith("did you mean llama:3b?")
