"""What the endpoint says of its models, from the table alone, beside what a real Ollama says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orion_streams.agents.ollama_lists import installed_models, resident_models
from orion_streams.agents.ollama_show import description
from orion_streams.gateway import listings
from orion_streams.gateway.timestamps import LAST_MS, on_clock, timestamp
from orion_streams.model.description import Description
from orion_streams.model.policy import ModelRules
from orion_streams.model.state import Demand, Grid, Installed, Resident
from orion_streams.projections import fold
from orion_streams.protocol import agent_entries
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry
from orion_streams.protocol.node_health import inventory_digest
from tests.grids import AT_MS, BIG, HEAVY, LIMITS, MODEL, edge, grid, node
from tests.simulated_ollama.recorded_contract import by_name, recorded

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DIFFERENCES = {
    "tags models[].modified_at": "the log does not say when a model came: always 1970, in a form that every"
    " Python reads",
    "tags models[].size": "the log has sizes in MB",
    "tags order": "the newest first needs that time too: those most asked for first, then by name",
    "ps models[].size": "the log has sizes in MB",
    "ps models[].expires_at": "a model goes when its place is needed, not at a time: always 2100",
    "show modelfile": "FROM names the model: its blob is a path on one node",
    "show details.parent_model": "a path on one node",
    "show model_info": "the architecture, its context length and the number of parameters; the log has no"
    " more of the file",
    "show model_info.general.parameter_count": "as exact as Ollama's own parameter_size",
    "show tensors": "no client reads them, and the log does not have them",
    "show modified_at": "as in tags",
    "v1 data[].created": "as in tags: 0",
}
"""Where an answer is not as a real Ollama's, and why; docs/ENDPOINT.md has the same table."""


def said(transcript: str, name: str) -> Any:
    """The body that a real Ollama has answered."""
    return json.loads(by_name(recorded(transcript))[name].text)


def raw(value: Any) -> bytes:
    """A body as bytes."""
    return json.dumps(value).encode()


def as_recorded() -> Grid:
    """The table after a node's health, as its agent makes it of what the real Ollama has said."""
    installed = installed_models(raw(said("1-discovery", "tags"))).models
    shown = said("1-discovery", "show")
    head = agent_entries.HealthHead(
        boot="b", sampled_ms=1, temp_mc=50_000, ram_used_mb=1, ram_total_mb=8_000, cpu_permille=0,
        resident=resident_models(raw(said("2-residency", "ps-resident"))).models,
        inventory=installed, inventory_digest=inventory_digest(installed),
        described=tuple(description(raw(shown), row) for row in installed), engine="ollama 0.24.0",
    )  # fmt: skip
    entry = Entry("health", "n", "5-0", {b"head": agent_entries.encode_head(head)})
    some = grid(node("n", installed={}))
    return fold(some, take(some, entry, **LIMITS).events)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of a body, by path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for each in value:
            yield from leaves(each, f"{path}[]")
    else:
        yield path, value


def unlike(real: Any, ours: Any) -> set[str]:
    """The paths at which two bodies differ: in value or type, or because one does not have them."""
    one, other = list(leaves(real)), list(leaves(ours))
    kinds = [(path, type(value)) for path, value in other]
    changed = {path for path, value in one if (path, value) not in other}
    added = {path for path, _ in other} - {path for path, _ in one}
    assert all((path, type(value)) in kinds for path, value in one if path in {name for name, _ in other})
    return changed | added


def by_model(body: dict[str, Any]) -> dict[str, Any]:
    """The same body with its rows in the order of names."""
    return {**body, "models": sorted(body["models"], key=lambda row: str(row["name"]))}


def found_differences() -> set[str]:
    """Every field in which an answer is not the recorded one."""
    some = as_recorded()
    tags, ours = said("1-discovery", "tags"), listings.tags(some, {})
    found = {f"tags {path}" for path in unlike(by_model(tags), by_model(ours))}
    if [row["name"] for row in tags["models"]] != [row["name"] for row in ours["models"]]:
        found.add("tags order")
    found |= {f"ps {path}" for path in unlike(said("2-residency", "ps-resident"), listings.ps(some))}
    shown = unlike(said("1-discovery", "show"), listings.show(some, MODEL, {}))
    kept = {"general.architecture", "gemma3.context_length", "general.parameter_count"}
    for path in shown:
        top, _, rest = path.partition(".")
        left_out = top == "model_info" and rest not in kept
        found.add("show model_info" if left_out else f"show {top if top == 'tensors[]' else path}")
    found = {each.replace("show tensors[]", "show tensors") for each in found}
    models = said("6-openai", "v1-models")
    ours = listings.v1_models(some, {})
    ours["data"] = [row for row in ours["data"] if row["id"] == MODEL]
    assert list(leaves({"data": [listings.v1_model(some, MODEL, {})]})) == list(leaves(ours))[1:]
    return (
        found
        | {f"v1 {path}" for path in unlike(models, ours)}
        | unlike(said("1-discovery", "version"), listings.version(some))
    )


def test_each_difference_from_a_real_ollama_is_listed_with_its_reason() -> None:
    """No other field differs, in value, type or presence; and none is listed that does not."""
    assert found_differences() == DIFFERENCES.keys()


def test_a_field_that_is_missing_or_of_another_type_would_show() -> None:
    """The control of the comparison."""
    real = {"models": [{"name": "a", "size": 1}]}
    assert unlike(real, real) == set()
    assert unlike(real, {"models": [{"name": "a"}]}) == {"models[].size"}
    assert unlike(real, {"models": [{"name": "a", "size": 1, "more": 1}]}) == {"models[].more"}
    with pytest.raises(AssertionError):
        unlike(real, {"models": [{"name": "a", "size": "1"}]})


def test_no_key_of_an_answer_has_another_place() -> None:
    """Keys come in Ollama's order."""
    some = as_recorded()
    for real, ours in (
        (said("1-discovery", "tags")["models"][0], listings.tags(some, {})["models"][0]),
        (said("2-residency", "ps-resident")["models"][0], listings.ps(some)["models"][0]),
        (said("6-openai", "v1-model"), listings.v1_model(some, MODEL, {})),
        (said("1-discovery", "show"), listings.show(some, MODEL, {})),
    ):
        assert list(ours or ()) == [key for key in real if key in (ours or ())]


def test_times_are_read_by_every_python() -> None:
    """fromisoformat of 3.9 knows no Z and no more than microseconds."""
    some = as_recorded()
    for text in (
        listings.ps(some)["models"][0]["expires_at"],
        listings.tags(some, {})["models"][0]["modified_at"],
    ):
        assert datetime.fromisoformat(text).utcoffset() is not None
        assert text.endswith("+00:00")


@given(st.integers(0, LAST_MS))
def test_a_timestamp_is_the_time_that_it_was_made_of(unix_ms: int) -> None:
    """In every century."""
    passed = datetime.fromisoformat(timestamp(unix_ms)) - EPOCH
    assert passed // timedelta(milliseconds=1) == unix_ms


@given(st.integers(0, LAST_MS - 10**9), st.integers(-1440, 1440))
def test_a_clock_elsewhere_shows_its_own_time(unix_ms: int, minutes: int) -> None:
    """To the second; before 1970 there is none."""
    there = EPOCH + timedelta(seconds=unix_ms // 1_000, minutes=minutes)
    assert on_clock(unix_ms, minutes) == max(there, EPOCH).strftime("%Y-%m-%d %H:%M:%S").rjust(19, "0")


def test_a_clock_that_cannot_be_gives_a_time_that_can() -> None:
    """Before 1970 and after 9999."""
    assert timestamp(-5) == "1970-01-01T00:00:00.000+00:00"
    assert timestamp(2**53) == "9999-12-31T23:59:59.999+00:00"


def names(some: Grid, **aliases: str) -> list[str]:
    """What is listed, in its order."""
    return [row["name"] for row in listings.tags(some, aliases)["models"]]


def test_only_what_a_node_answers_with_is_listed() -> None:
    """Nothing of a node without inference, nothing that runs elsewhere."""
    some = grid(
        node("a", installed={MODEL: Installed("a", 1)}, remote=("big:1t-cloud",)),
        edge(installed={HEAVY: Installed("b", 1)}),
    )
    assert names(some) == [MODEL]
    assert [row["name"] for row in listings.ps(some)["models"]] == []
    for name in (HEAVY, "big:1t-cloud", "", ":latest", "/", "gemma3", "gemma3:270", "emma3:270m"):
        assert listings.find(some, name, {}) is None
        assert listings.show(some, name, {}) is listings.v1_model(some, name, {}) is None


def test_what_is_asked_for_most_comes_first_and_then_the_order_of_names() -> None:
    """So the order stands still where nothing is asked for."""
    some = grid(node("a"), demand={HEAVY: Demand(500, AT_MS), MODEL: Demand(400, AT_MS)})
    assert names(some) == [HEAVY, MODEL]
    assert names(grid(node("a"))) == [MODEL, HEAVY]


def test_a_model_is_as_most_nodes_have_it() -> None:
    """Of equals, as the first node by name."""
    some = grid(
        node("c", installed={MODEL: Installed("new", 2)}),
        node("b", installed={MODEL: Installed("old", 1)}),
        node("a", installed={MODEL: Installed("new", 2)}),
    )
    [row] = listings.tags(some, {})["models"]
    assert (row["digest"], row["size"]) == ("new", 2_000_000)
    del some.nodes["c"]
    assert listings.tags(some, {})["models"][0]["digest"] == "new"
    del some.nodes["a"]
    assert listings.tags(some, {})["models"][0]["digest"] == "old"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("m", "m:latest"), ("m:latest", "m:latest"), ("M:Latest", "m:latest"), (" m\n", "m:latest"),
        ("registry.ollama.ai/library/m", "m:latest"), ("library/m", "m:latest"),
        ("m:1b", None), ("mm", None), ("other/m", None),
        ("Case:1B", "Case:1B"), ("case:1b", "case:1b"), ("CASE:1b", "Case:1B"),
        ("hf.co/User/x:Q4", "hf.co/User/x:Q4"), ("hf.co/user/X:q4", "hf.co/User/x:Q4"),
    ],
)  # fmt: skip
def test_what_is_listed_is_found_by_its_name(name: str, found: str | None) -> None:
    """As the router finds it, and never another model."""
    there = ("m:latest", "Case:1B", "case:1b", "hf.co/User/x:Q4")
    some = grid(node("a", installed={each: Installed(each, 1) for each in there}))
    assert listings.find(some, name, {}) == found
    assert all(listings.find(some, each, {}) == each for each in names(some))


def test_an_alias_is_listed_like_a_model_of_that_name() -> None:
    """With its tag; unless its model is nowhere, or a model has the name itself. It is no alias's alias."""
    aliases = {"gpt-4o": "gemma3:270M", "gone": "nowhere:1b", HEAVY: MODEL, "again": "gpt-4o"}
    some = grid(node("a"))
    assert names(some, **aliases) == [MODEL, "gpt-4o:latest", HEAVY]
    found = {"gpt-4o": MODEL, "GPT-4o:latest": MODEL, HEAVY: HEAVY, "gone": None, "again": None}
    for name, model in found.items():
        assert listings.find(some, name, aliases) == model
    assert [row["id"] for row in listings.v1_models(some, aliases)["data"]] == names(some, **aliases)
    shown = listings.show(some, "gpt-4o", aliases)
    assert shown is not None
    assert "FROM gpt-4o:latest\n" in shown["modelfile"]
    assert names(some, **{"a": HEAVY, "A": MODEL}) == ["a:latest", MODEL, HEAVY]
    assert listings.find(some, "A", {"a": HEAVY, "A": MODEL}) == HEAVY
    one, other = listings.tags(some, aliases)["models"][:2]
    assert (one["digest"], one["size"]) == (other["digest"], other["size"])


def test_of_a_model_on_several_nodes_the_largest_context_is_shown_and_silent_nodes_have_none() -> None:
    """One row per model."""
    rows = {4096: "a", 8192: "b", 2048: "c"}
    some = grid(
        *(node(name, resident={MODEL: Resident("a", 300, context)}) for context, name in rows.items())
    )
    [row] = listings.ps(some)["models"]
    assert (row["context_length"], row["size"], row["size_vram"]) == (8192, 300_000_000, 0)
    some.at_ms += 10 * some.policy.stale_ms
    assert listings.ps(some) == {"models": []}
    assert len(listings.tags(some, {})["models"]) == 2


def test_a_model_that_nobody_has_described_can_complete() -> None:
    """Capabilities are a list, parameters are left out, and nothing is made up."""
    shown = listings.show(grid(node("a")), MODEL, {})
    assert shown is not None
    assert (shown["capabilities"], shown["model_info"], shown["template"]) == (["completion"], {}, "")
    assert "parameters" not in shown
    assert shown["details"]["families"] == []


def test_what_is_known_of_a_model_is_shown() -> None:
    """Parameters as Ollama gives them; the Modelfile builds on the name."""
    known = Description(
        family="llama", parameter_size="3.2B", quantization="Q4_K_M", capabilities=("completion", "tools"),
        context_length=131_072, parameters='num_ctx                2048\nstop                   "<|x|>"',
        template='{{ .System }}\n"{{ .Prompt }}"',
    )  # fmt: skip
    shown = listings.show(grid(node("a"), described={"b": known}), HEAVY, {})
    assert shown is not None
    assert shown["parameters"] == known.parameters
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"] == {
        "general.architecture": "llama", "llama.context_length": 131_072,
        "general.parameter_count": 3_200_000_000,
    }  # fmt: skip
    assert shown["modelfile"].split("\n\n")[1] == (
        f'FROM {HEAVY}\nTEMPLATE """{known.template}"""\nPARAMETER num_ctx 2048\nPARAMETER stop "<|x|>"\n'
    )


def test_a_model_cannot_think_if_no_copy_can() -> None:
    """What is not described yet may think, and so may one of two copies."""
    plain, thinks = Description(capabilities=("completion",)), Description(capabilities=("thinking",))
    nodes = [node(name, installed={MODEL: Installed(name, 1)}) for name in "ab"]
    for described, expected in (
        ({}, False), ({"a": plain}, True), ({"a": plain, "b": plain}, True),
        ({"a": plain, "b": thinks}, False), ({"a": Description()}, False),
    ):  # fmt: skip
        assert listings.cannot_think(grid(*nodes, described=described), MODEL) is expected


def test_the_context_is_what_a_request_gets_here() -> None:
    """Not what the model was trained for, where streams.toml allows less."""
    known = {"b": Description(family="llama", context_length=131_072)}
    for rules, expected in (
        (ModelRules(num_ctx=4_096), 4_096), (ModelRules(max_num_ctx=16_384), 16_384),
        (ModelRules(), 131_072), (ModelRules(max_num_ctx=999_999), 131_072),
    ):  # fmt: skip
        shown = listings.show(grid(node("a"), described=known, models={HEAVY: rules}), HEAVY, {})
        assert shown is not None
        assert shown["model_info"]["llama.context_length"] == expected


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("268.10M", 268_100_000),
        ("8B", 8_000_000_000),
        ("1T", 10**12),
        ("137", 137),
        ("", 0),
        ("many", 0),
        ("8x7B", 0),
    ],
)
def test_a_parameter_size_is_a_number(size: str, count: int) -> None:
    """Or is not known."""
    assert listings.parameter_count(size) == count


@pytest.mark.parametrize(
    ("engines", "version"),
    [
        (("ollama 0.24.0", "ollama 0.9.10"), "0.9.10"), (("ollama 0.24.0", "ollama", ""), "0.24.0"),
        (("ollama 0.30.1-rc2",), "0.30.1"), (("ollama 1.2",), "1.2.0"), (("ollama v1.2.3",), "1.2.3"),
        (("simulated (synthetic)",), "0.24.0"), (("ollama 0.0.0",), "0.24.0"), (("ollama x",), "0.24.0"),
        ((), "0.24.0"),
    ],
)  # fmt: skip
def test_the_version_is_the_lowest_of_the_nodes(engines: tuple[str, ...], version: str) -> None:
    """Numbers and dots only; a robot's does not count, and where none is known it is the one that answers
    were compared with."""
    nodes = [node(f"n{number}", engine=engine) for number, engine in enumerate(engines)]
    assert listings.version(grid(*nodes, edge(engine="ollama 0.1.0"))) == {"version": version}


def test_an_owner_is_the_namespace_of_the_name() -> None:
    """As in Ollama's /v1/models."""
    assert [listings.v1_row(name)["owned_by"] for name in (BIG, "user/m:1b", "hf.co/User/x:Q4")] == [
        "library", "user", "User",
    ]  # fmt: skip


def test_nodes_that_have_not_told_their_models_are_named() -> None:
    """Those that answer requests; the robot never has any."""
    some = grid(node("one"), node("two", inventory_known=False), edge())
    assert listings.untold(some) == ["two"]
