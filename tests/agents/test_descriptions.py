"""What a model is: read from /api/show, asked once per digest, told until it can be known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from orion_streams.agents.backend import Echo, Listing
from orion_streams.agents.health import ASKED_AT_ONCE, Residency
from orion_streams.agents.ollama_json import UNREADABLE
from orion_streams.agents.ollama_show import description
from orion_streams.model import events as ev
from orion_streams.projections import fold
from orion_streams.protocol import agent_entries
from orion_streams.protocol.agent_entries import InstalledModel, ModelDescription
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry
from orion_streams.simulation.machine_spec import ModelSpec
from tests.agents.agent_bench import NODE, open_bench, running
from tests.grids import LIMITS, MODEL, grid, node

ROW = InstalledModel("gemma3:270m", "sha256:a", 253)
TRANSCRIPT = Path(__file__).parents[1] / "simulated_ollama" / "transcripts" / "1-discovery.json"
SHOWN: dict[str, Any] = {
    "license": "secret", "system": "secret", "messages": [{"role": "user", "content": "secret"}],
    "modelfile": "secret", "template": "{{ .Prompt }}", "capabilities": ["tools", "completion"],
    "parameters": "stop                           \"<end>\"\nnum_ctx                        2048\n",
    "details": {"family": "gemma3", "parameter_size": "268.10M", "quantization_level": "Q4_K_M"},
    "model_info": {"general.architecture": "gemma3", "gemma3.context_length": 32_768},
}  # fmt: skip


def test_what_a_real_ollama_says() -> None:
    """The recorded answer of /api/show."""
    [shown] = [each for each in json.loads(TRANSCRIPT.read_text()) if each["name"] == "show"]
    raw = "".join(piece["text"] for piece in shown["body"]).encode()
    assert description(raw, ROW) == ModelDescription(
        "gemma3:270m", "sha256:a", "gemma3", "268.10M", "Q4_K_M", ("completion",), 32_768, 0, "",
        "{{ .Prompt }}",
    )  # fmt: skip


def test_what_matters_is_taken_and_nothing_else() -> None:
    """The Modelfile's own context among it; no system prompt, no message, no licence."""
    found = description(msgspec.json.encode(SHOWN), ROW)
    assert (found.num_ctx, found.context_length, found.truncated) == (2_048, 32_768, ())
    assert found.capabilities == ("completion", "tools")
    assert b"secret" not in msgspec.json.encode(found)


def test_what_people_are_shown_has_nothing_for_their_terminal() -> None:
    """Of labels what can be printed is kept."""
    odd = {"family": "f\x1b[31m", "parameter_size": "1\nB", "quantization_level": "\u202eQ4"}
    raw = msgspec.json.encode({"details": odd, "capabilities": ["to\x1bols", "\n", "vision"]})
    found = description(raw, ROW)
    assert (found.family, found.parameter_size, found.quantization) == ("f[31m", "1B", "Q4")
    assert found.capabilities == ("tools", "vision")


@pytest.mark.parametrize(("said", "known"), [(1, 0), (31, 0), (32, 32), (2**24, 2**24), (2**24 + 1, 0)])
def test_a_context_that_cannot_be_is_unknown(said: int, known: int) -> None:
    """That it was trained for, and that its Modelfile asks for: every run would ask Ollama for it."""
    trained = {"model_info": {"general.architecture": "a", "a.context_length": said}}
    found = description(msgspec.json.encode({**trained, "parameters": f"num_ctx {said}"}), ROW)
    assert (found.context_length, found.num_ctx) == (known, known)


@pytest.mark.parametrize(
    "odd",
    [
        {"capabilities": None}, {"capabilities": "tools"}, {"capabilities": [1, None, "tools"]},
        {"details": None}, {"details": [1]}, {"model_info": "x"},
        {"model_info": {"general.architecture": 7}},
        {"parameters": 7}, {"parameters": "num_ctx many"}, {"template": {}}, {"error": None},
        {"model_info": {"general.architecture": "gemma3", "gemma3.context_length": -1}},
        {"details": {"family": "f" * 999}}, {"capabilities": ["c" * 999] * 99},
    ],
)  # fmt: skip
def test_odd_members_cost_only_themselves(odd: dict[str, Any]) -> None:
    """The rest is there, and what is told fits into an entry."""
    found = description(msgspec.json.encode({**SHOWN, **odd}), ROW)
    assert found.name == ROW.name
    assert msgspec.json.decode(msgspec.json.encode(found), type=ModelDescription) == found


def test_what_is_too_long_is_cut_and_said() -> None:
    """16 KB at most."""
    raw = msgspec.json.encode({**SHOWN, "template": "t" * 99_999, "parameters": "p" * 99_999})
    found = description(raw, ROW)
    assert found.truncated == ("parameters", "template")
    assert len(msgspec.json.encode(found)) < 16_000


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"error":"no such model"}', b"<html>"])
def test_no_answer_is_no_description(raw: bytes) -> None:
    """It is asked again later."""
    with pytest.raises(UNREADABLE):
        description(raw, ROW)


class Library(Echo):
    """Many models, one of which nobody can describe. `asked`: by name, in order."""

    def __init__(self, count: int) -> None:
        self.rows = tuple(InstalledModel(f"m{n}", f"d{n}", 1) for n in range(count))
        self.asked: list[str] = []

    async def installed(self) -> Listing[InstalledModel]:
        return Listing(self.rows)

    async def described(self, model: InstalledModel) -> ModelDescription:
        self.asked.append(model.name)
        if model.name == "m1":
            raise httpx.ReadTimeout("it takes too long")
        return ModelDescription(model.name, model.digest, family="f")


def test_the_order_of_parameters_does_not_count() -> None:
    """Ollama gives them in any."""
    one, other = ("stop  x\nnum_ctx  2048", "num_ctx  2048\nstop  x")
    found = [description(msgspec.json.encode({**SHOWN, "parameters": each}), ROW) for each in (one, other)]
    assert found[0] == found[1]


async def test_each_model_is_asked_once_and_told_after_each_list() -> None:
    """A few at a time; one that cannot be told a minute later again; one that is gone no more."""
    library = Library(10)
    residency = Residency(library, 1_000)
    told: list[ModelDescription] = []
    for now_s in range(5):
        await residency.look(float(now_s))
        told += residency.descriptions()
        assert len(library.asked) <= ASKED_AT_ONCE * (now_s + 1)
    assert sorted(library.asked) == sorted(row.name for row in library.rows)
    assert library.asked[:3] == ["m0", "m1", "m2"]  # after one that fails the look is over
    expected = [row.name for row in library.rows if row.name != "m1"]
    assert [each.name for each in told] == expected
    residency.tell_all()
    again = [*residency.descriptions(), *residency.descriptions()]
    assert [each.name for each in again] == expected
    assert residency.descriptions() == ()
    await residency.look(62.0)
    assert library.asked[10:] == ["m1"]
    library.rows = library.rows[:3]
    await residency.look(64.0)
    residency.tell_all()
    assert [each.name for each in residency.descriptions()] == ["m0", "m2"]


def test_the_log_has_it_once() -> None:
    """Told again it is no event, nor told otherwise by a node with another Ollama; what was missing is
    added. Once no node has the model, it is forgotten."""
    head = agent_entries.HealthHead(
        "b", 1, 50_000, 1, 8_000, 0, described=(ModelDescription(MODEL, "a", family="gemma3"),)
    )

    def heard(some: Any, head: agent_entries.HealthHead) -> list[ev.ModelDescribed]:
        entry = Entry("health", "n", "5-0", {b"head": agent_entries.encode_head(head)})
        return [each for each in take(some, entry, **LIMITS).events if isinstance(each, ev.ModelDescribed)]

    some = grid(node("n"))
    [event] = heard(some, head)
    assert (event.node, event.model, event.digest, event.about.family) == ("n", MODEL, "a", "gemma3")
    some = fold(some, [event])
    assert heard(some, head) == []
    other = msgspec.structs.replace(head.described[0], family="other", num_ctx=2_048)
    [event] = heard(some, msgspec.structs.replace(head, described=(other,)))
    assert (event.about.family, event.about.num_ctx) == ("gemma3", 2_048)
    some = fold(some, [event])
    assert heard(some, head) == heard(some, msgspec.structs.replace(head, described=(other,))) == []
    assert "a" in some.described
    assert "a" not in fold(some, [ev.ModelRemoved("n", MODEL)]).described


async def test_an_agent_tells_what_its_models_are(valkey_url: str, prefix: str) -> None:
    """With its first entries, as the simulated Ollama says it; and the context of a Modelfile is used."""
    models = (ModelSpec(name="small:1b", size_mb=100, num_ctx=2_048, capabilities=("completion", "tools")),)
    async with open_bench(valkey_url, prefix, models=models) as bench, running(bench.config):
        head = await bench.healthy(lambda head: bool(head.described), "its models are told")
        [row] = head.described
        assert (row.name, row.num_ctx, row.context_length) == ("small:1b", 2_048, 32_768)
        assert row.capabilities == ("completion", "tools")
        async with httpx.AsyncClient(base_url=bench.config.node(NODE).ollama) as http:
            await http.post("/api/generate", json={"model": "small:1b"})
            [shown] = (await http.get("/api/ps")).json()["models"]
        assert shown["context_length"] == 2_048
