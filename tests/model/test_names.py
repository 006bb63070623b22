"""Names of models: what Ollama takes for the same is the same."""

from __future__ import annotations

import pytest

from orion_streams.model import events as ev
from orion_streams.model.names import full_model_name, is_cloud, same_name, without_source
from orion_streams.model.state import Resident
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry
from tests.grids import DISK, LIMITS, MODEL, grid, node

HF = "hf.co/Org/Small-GGUF:Q4_K_M"


@pytest.mark.parametrize(
    ("asked", "full"),
    [
        ("m", "m:latest"),
        ("m:1b", "m:1b"),
        ("library/m", "m:latest"),
        ("Library/M:1B", "M:1B"),
        ("registry.ollama.ai/library/m", "m:latest"),
        ("registry.ollama.ai/library/m:latest", "m:latest"),
        ("https://registry.ollama.ai/library/m", "m:latest"),
        ("REGISTRY.ollama.ai/eva/m", "eva/m:latest"),
        ("eva/m", "eva/m:latest"),
        ("example.com/library/m", "example.com/library/m:latest"),
        ("example.com:5000/eva/m", "example.com:5000/eva/m:latest"),
        ("hf.co/Org/Small-GGUF", "hf.co/Org/Small-GGUF:latest"),
        (HF, HF),
        ("", ":latest"),
        ("a/b/c/d", "a/b/c/d:latest"),
    ],
)
def test_defaults_are_left_out_and_the_tag_is_filled_in(asked: str, full: str) -> None:
    """As in Ollama's own lists; a full name stays as it is."""
    assert full_model_name(asked) == full
    assert full_model_name(full) == full


def test_case_does_not_count() -> None:
    """The name that is there wins; of several the first; without any it stays what was asked."""
    assert same_name("HF.CO/org/small-gguf:q4_k_m", [HF, "m:1b"]) == HF
    assert same_name("a:1B", ["a:1b", "A:1b"]) == "A:1b"
    assert same_name("b:1b", ["a:1b"]) == "b:1b"


def test_a_server_that_leaves_out_the_tag_has_the_model_all_the_same() -> None:
    """Its own form of the name is what it is asked for."""
    assert same_name("m:latest", ["m", "m:1b"]) == "m"


@pytest.mark.parametrize(
    ("name", "is_asked_outside"),
    [
        ("gpt-oss:120b-cloud", True),
        ("gpt-oss:20b:cloud", True),
        ("m:Cloud", True),
        ("M:1B-CLOUD", True),
        ("eva/m:x-cloud", True),
        ("hf.co/eva/m:cloud", True),
        ("m-cloud", False),
        ("m-cloud:latest", False),
        ("cloud", False),
        ("m:cloud9", False),
        ("m:1bcloud", False),
        ("example.com:5000/eva/m-cloud", False),
    ],
)
def test_ollama_asks_outside_by_the_tag_alone(name: str, is_asked_outside: bool) -> None:
    """As internal/modelref/modelref.go has it, whatever models the server has."""
    assert is_cloud(name) == is_asked_outside


def test_a_name_may_say_that_it_is_local() -> None:
    """Ollama takes `:local` away; a model that is listed under such a name is meant itself."""
    for asked, meant in (("m:local", "m:latest"), ("m:1b:LOCAL", "m:1b"), ("m:1b", "m:1b")):
        assert without_source(asked) == meant
    assert same_name("m:1b:local", ["m:1b"]) == "m:1b"
    assert same_name("m:local", ["m:latest", "m:local"]) == "m:local"
    for asked in (f"{MODEL}:local", f"{MODEL.upper()}:Local"):
        fields = {b"id": b"q", b"model": asked.encode(), b"prompt": b"p"}
        [accepted] = take(grid(node("n")), Entry("requests", "brain", "5-0", fields), **LIMITS).events
        assert isinstance(accepted, ev.RequestAccepted)
        assert accepted.model == MODEL


@pytest.mark.parametrize("asked", ["big:cloud", f"{MODEL}-cloud"])
def test_a_cloud_model_is_refused_whatever_a_node_lists(asked: str) -> None:
    """An older agent may list it as one of its own."""
    fields = {b"id": b"q", b"model": asked.encode(), b"prompt": b"p"}
    listed = node("n", installed={asked: DISK[MODEL]}, resident={asked: Resident("a", 9)})
    taken = take(grid(listed), Entry("requests", "brain", "5-0", fields), **LIMITS)
    [rejected] = taken.events
    assert isinstance(rejected, ev.RequestRejected)
    assert rejected.code == "unknown_model"
    assert taken.message.endswith(" Ollama would ask it outside this house: that is never done.")


FORMS = (MODEL, MODEL.upper(), f"library/{MODEL}", f"registry.ollama.ai/library/{MODEL}")


@pytest.mark.parametrize("asked", FORMS)
def test_a_request_finds_the_model_in_whatever_form(asked: str) -> None:
    """It is accepted under the name that nodes know."""
    fields = {b"id": b"q", b"model": asked.encode(), b"prompt": b"p"}
    [accepted] = take(grid(node("n")), Entry("requests", "brain", "5-0", fields), **LIMITS).events
    assert isinstance(accepted, ev.RequestAccepted)
    assert accepted.model == MODEL


def test_who_mistypes_a_name_is_told_what_is_near() -> None:
    """And how a node gets the model, if that was meant."""
    some = grid(node("n", installed={MODEL: DISK[MODEL]}))
    for asked, hint in (("gemma3:27b", f"did you mean {MODEL}? Else"), ("zzz", "To have it")):
        fields = {b"id": b"q", b"model": asked.encode(), b"prompt": b"p"}
        taken = take(some, Entry("requests", "brain", "5-0", fields), **LIMITS)
        assert taken.message.endswith(f"{hint}: ollama pull {full_model_name(asked)} on n.")
