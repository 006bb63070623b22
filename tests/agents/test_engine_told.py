"""What runs a node's models: asked without a run, told in health, kept in the table."""

from __future__ import annotations

from orion_streams.agents.backend import Echo, RunFailedError
from orion_streams.agents.health import LabelNews, Residency
from orion_streams.agents.ollama_backend import Ollama
from orion_streams.config import NodeConfig
from orion_streams.model.state import Grid
from orion_streams.projections import fold
from orion_streams.protocol import agent_entries
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry
from tests.agents.agent_bench import Bench, running
from tests.agents.odd_server import answering
from tests.grids import LIMITS, grid, node


def version(number: str) -> bytes:
    """An answer of /api/version."""
    return b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"version":"' + number.encode() + b'"}'


async def test_an_agent_tells_what_runs_its_models_without_a_run(bench: Bench) -> None:
    """A simulated node is told as simulated."""
    async with running(bench.config):
        head = await bench.healthy(lambda head: bool(head.engine), "its engine is told")
        assert head.engine == "simulated (synthetic)"


async def test_an_ollama_that_was_replaced_has_a_new_version_and_one_that_is_away_its_last() -> None:
    """Who is asked again is named anew; without an answer the name stays."""
    numbers = ["0.23.4", "0.24.0"]
    async with answering(lambda path: version(numbers.pop(0))) as backend:
        await backend.identify()
        assert backend.engine == "ollama 0.23.4"
        await backend.identify()
    await backend.close()
    assert backend.engine == "ollama 0.24.0"
    away = Ollama(NodeConfig(ollama="http://127.0.0.1:9", simulated=True), 50)
    await away.identify()
    assert away.engine == "simulated"
    await away.close()


async def test_a_version_that_is_no_text_for_a_terminal_loses_what_is_none() -> None:
    """Whoever reads the table reads words."""
    async with answering(lambda path: version("1.2\\u001b[2J\\n" + "x" * 99)) as backend:
        await backend.identify()
        assert backend.engine.startswith("ollama 1.2[2Jxx")
        assert len(backend.engine) <= agent_entries.WORD_MAX


class Impostor(Echo):
    """A backend that may run nothing."""

    async def identify(self) -> None:
        raise RunFailedError("bad_answer", "node", "/sim/sensors answers without `engine`")


async def test_what_may_run_nothing_is_not_named() -> None:
    """Its lists are told all the same."""
    named, unnamed = Residency(Echo(), 1000), Residency(Impostor(), 1000)
    for each in (named, unnamed):
        await each.look(0.0)
        assert each.installed is not None
    assert (named.engine, unnamed.engine) == ("simulated (echo)", "")


def test_a_label_is_told_on_change_and_every_minute() -> None:
    """And again after an entry that may be lost."""
    news = LabelNews("what runs the models")
    told = [
        news.to_tell(label, now_s) for label, now_s in (("", 0.0), ("a", 1.0), ("a", 60.0), ("a", 61.0))
    ]
    assert told == ["", "a", "", "a"]
    assert news.to_tell("b", 62.0) == "b"
    news.tell_anew()
    assert [news.to_tell("b", 63.0), news.to_tell("b", 64.0)] == ["b", ""]
    assert len(news.to_tell("c" * 999, 65.0)) == agent_entries.WORD_MAX


def heard(some: Grid, **said: str) -> Grid:
    """The grid after a health entry."""
    head = agent_entries.HealthHead("b", 1, 50_000, 1, 8_000, 0, **said)  # type: ignore[arg-type]
    entry = Entry("health", "n", "5-0", {b"head": agent_entries.encode_head(head)})
    return fold(some, take(some, entry, **LIMITS).events)


def test_the_table_keeps_it_until_another_is_told() -> None:
    """An agent that never tells it, as old ones do, leaves it empty."""
    some = heard(grid(node("n")))
    assert some.nodes["n"].engine == ""
    some = heard(heard(some, engine="ollama 0.24.0"))
    assert some.nodes["n"].engine == "ollama 0.24.0"
    assert heard(some, engine="ollama 0.25.0").nodes["n"].engine == "ollama 0.25.0"
