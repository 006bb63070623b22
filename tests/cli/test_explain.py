"""`orion explain`: the whole life of a request, from a log in which everything happens once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.agents.router import Router
from orion_streams.cli import explain_command
from orion_streams.config import Config, parse
from orion_streams.model.verdict import Verdict
from tests.cli.conftest import Orion
from tests.cli.run_cli import MODEL, OTHER, with_store
from tests.cli.run_cli import TOML as BASE_TOML
from tests.conftest import ServerStore
from tests.helpers import Agent, ask, settle

PREFIX = "explained:"
TOML = BASE_TOML.replace("[nodes.edge]", "min_stay_ms = 0\nretry_ms = 300000\n[nodes.edge]").replace(
    "[nodes.never]\n", ""
)
STORY_KEYS = {
    "request", "client", "id", "accepted", "accepted_position", "accepted_server_ms", "decisions",
    "happenings", "timing", "outcome", "deadline_in_ms", "look",
}  # fmt: skip
DECISION_KEYS = {"position", "server_ms", "after_ms", "attempt", "kind", "node", "verdicts"}


class Told:
    """The log under the prefix, and how to make things happen in it."""

    def __init__(self, store: ServerStore, config: Config) -> None:
        self.store, self.router = store, Router(store.log, config)
        self.master, self.worker = Agent(store, "master", (MODEL,)), Agent(store, "worker", (MODEL, OTHER))

    async def ask(self, request_id: str, client: str = "brain", **fields: Any) -> None:
        """A request, and what the router makes of it."""
        asked = {"model": MODEL, "prompt": f"secret prompt of {request_id}"} | fields
        await ask(self.store, request_id, client, **asked)
        await settle(self.router)

    async def serve(self, agent: Agent) -> None:
        """Answer whatever the node has."""
        for run in await agent.read_work():
            await agent.say(run, "started")
            await settle(self.router)
            await agent.complete(run, b"secret answer", load_ms=7, total_ms=57)
        await settle(self.router)

    async def beat(self, **changes: Any) -> None:
        """Health of both nodes."""
        await self.master.beat(**changes)
        await self.worker.beat(**changes)
        await settle(self.router)


async def prepare(store: ServerStore, config: Config) -> None:
    """A request of each kind, named after what becomes of it."""
    told = Told(store, config)
    await told.router.start()
    await Agent(store, "edge", ()).beat(temp_mc=None)
    await told.beat()
    await told.ask("done", num_predict=50, tier=1)
    await told.serve(told.master)
    await told.ask("done")  # again: nothing starts
    await told.ask("fails")
    [run] = await told.master.read_work()
    await told.master.fail(run)
    await settle(told.router)
    await told.serve(told.worker)
    await told.ask("first", model=OTHER)
    await told.ask("queued", model=OTHER)
    for _ in range(2):
        await told.serve(told.worker)
    await told.ask("nowhere", model="nobody:has-it")
    for client in ("brain", "gateway"):
        await told.ask("twice", client)
        await told.serve(told.master)
        await told.serve(told.worker)
    await told.ask("moved", tier=1)
    await told.master.beat(temp_mc=76_100)
    await settle(told.router)
    await told.serve(told.worker)
    await told.beat(temp_mc=76_100)
    await told.ask("late", deadline_ms=1000)
    await told.ask("dropped")
    await store.add("requests:brain", {"cancel": "dropped"})
    await settle(told.router)
    store.skip(2500)
    await told.beat(temp_mc=77_000)
    await told.ask("waits")
    await told.ask("behind")


@pytest.fixture(scope="module")
def written(valkey_url: str) -> str:
    """The server with that log."""

    async def write(store: ServerStore, _: Config) -> None:
        await prepare(store, parse(TOML.format(prefix=PREFIX, url=valkey_url)))

    asyncio.run(with_store(valkey_url, PREFIX, write))
    return valkey_url


def flat(out: str) -> str:
    """A screen without its spacing."""
    return " ".join(out.split())


Explain = Callable[..., str]


@pytest.fixture
def explain(orion: Orion, home: Path, written: str, monkeypatch: pytest.MonkeyPatch) -> Explain:
    """The output of `orion explain` in a terminal of 80 columns."""
    (home / "streams.toml").write_text(TOML.format(prefix=PREFIX, url=written))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> str:
        code, out, err = orion("explain", *words)
        assert code == 0
        assert err == "" or "this is older data" in err  # a slow machine
        return out

    return run


@pytest.fixture
def data(explain: Explain) -> Callable[[str], Any]:
    """The object of --json."""

    def read(asked: str) -> Any:
        out = explain(asked, "--json")
        assert out.count("\n") == 1
        return msgspec.json.decode(out)

    return read


def kinds(found: Any) -> list[str]:
    """The happenings of a story, by their events' names."""
    return [each["event"] for each in found["happenings"]]


def test_an_answered_request_is_told_on_one_screen(explain: Explain) -> None:
    """Costs, choice and durations within 80 columns and 30 lines, without a word of the content."""
    out = explain("brain/done")
    lines = out.splitlines()
    assert lines[0].startswith("brain/done was answered by master after ")
    assert "tier 1" in lines[1]
    assert "attempt 1 goes to master" in out
    assert "→ master" in out
    assert "= load 34 s + prefill " in out
    assert "+ spill 15 s" in out
    assert "edge not a node that answers requests" in flat(out)
    assert "answered: 2 tokens (stop), prompt of 3, model loaded for it" in out
    assert "measured " in out
    assert "sent again; nothing started anew" in out
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert "secret" not in out


def test_the_data_of_an_answered_request(data: Callable[[str], Any]) -> None:
    """--json: one object with the decision, all fields of each verdict, what happened and the outcome."""
    found = data("done")
    assert set(found) == STORY_KEYS
    assert (found["request"], found["client"], found["id"]) == ("brain/done", "brain", "done")
    assert found["accepted"]["model"] == MODEL
    [choice] = found["decisions"]
    assert set(choice) == DECISION_KEYS
    assert (choice["kind"], choice["attempt"], choice["node"]) == ("routed", 1, "master")
    assert choice["position"] > found["accepted_position"] > 0
    assert choice["server_ms"] >= found["accepted_server_ms"] > 1_600_000_000_000
    assert all(set(each) == set(Verdict.__struct_fields__) for each in choice["verdicts"])
    assert kinds(found) == ["request.accepted", "request.started", "request.completed", "request.resent"]
    assert found["outcome"]["state"] == "done"
    assert {each["name"]: each["measured_ms"] for each in found["timing"]}["on the node"] == 57
    assert (found["look"], found["deadline_in_ms"]) == (None, None)
    assert "secret" not in str(found)


def test_an_attempt_that_failed_is_told_with_the_next_one(explain: Explain, data: Any) -> None:
    """The code and the node of the failure, and why the second attempt goes elsewhere."""
    out = explain("fails")
    assert "attempt 1 failed on master: broken, the node's fault" in out
    assert "attempt 2 goes to worker; the client is told that it begins anew" in flat(out)
    assert "paused for this request, which failed here 0.0 s ago: for 1.0 s" in flat(out)
    found = data("fails")
    assert [(each["attempt"], each["node"]) for each in found["decisions"]] == [
        (1, "master"),
        (2, "worker"),
    ]
    assert kinds(found)[1:] == ["attempt.failed", "request.started", "request.completed"]
    assert found["outcome"]["node"] == "worker"


def test_a_request_that_waited_is_told_with_what_it_waited_for(explain: Explain, data: Any) -> None:
    """Deferred behind a busy node, with the drain that this costs, then routed there."""
    out = explain("queued")
    assert "waits for worker, which cannot begin yet" in out
    assert "= drain " in out
    assert "master does not have the model on disk" in flat(out)
    assert [each["kind"] for each in data("queued")["decisions"]] == ["deferred", "routed"]


def test_an_attempt_that_was_given_up_says_why(explain: Explain) -> None:
    """Its node grew too hot before it began: the value and the limit are on the screen."""
    out = explain("moved")
    assert "attempt 1 on master was given up: hot, the node grew too hot before it started" in flat(out)
    assert "too hot: 76.1 °C, limit 70.0 °C" in out
    assert "attempt 2 goes to worker" in out


def test_an_expired_request_says_what_held_every_node_back(explain: Explain, data: Any) -> None:
    """When it was deferred and when its deadline passed, node by node."""
    out = explain("late")
    assert "brain/late expired after " in out
    assert "waits, as no node can take it" in out
    assert "at the end: no node can take it" in out
    found = data("late")
    assert (found["outcome"]["state"], found["look"]["at"], found["look"]["kind"]) == (
        "expired", "end", "deferred",
    )  # fmt: skip
    assert found["look"]["position"] == found["outcome"]["position"] - 1


def test_a_cancelled_request_says_so(explain: Explain, data: Any) -> None:
    """The client's own word ends it."""
    assert "brain/dropped was cancelled after " in explain("dropped")
    assert data("dropped")["outcome"]["state"] == "cancelled"


def test_a_waiting_request_shows_what_routing_says_now(explain: Explain, data: Any) -> None:
    """Still open: its age, its deadline, each node as it is at this moment, and who is served before it."""
    out = explain("waits")
    assert "brain/waits has been waiting for " in out
    assert "; it expires in 5" in out
    assert "now: no node can take it" in out
    assert "too hot: 77.0 °C" in out
    assert "now: no node can take it, behind 1 other\n" in explain("behind")
    found = data("waits")
    assert (found["outcome"]["state"], found["look"]["at"], found["look"]["ahead"]) == ("waiting", "now", 0)
    assert found["deadline_in_ms"] > 0


def test_a_rejected_request_says_why(explain: Explain, data: Any) -> None:
    """It was never accepted: the code, its sentence and the position."""
    out = explain("nowhere")
    assert "brain/nowhere was rejected: unknown_model. No inference node that the request" in out
    assert "its id stays unused" in out
    found = data("nowhere")
    assert (found["accepted"], found["decisions"], found["outcome"]["code"]) == (None, [], "unknown_model")


def test_an_id_of_two_clients_is_ambiguous(orion: Orion, explain: Explain) -> None:
    """Exit 2 with the choices; each of them is explained by its full name."""
    code, out, err = orion("explain", "twice")
    assert (code, out) == (2, "")
    assert err == "orion: twice is the id of several requests, name one: brain/twice, gateway/twice\n"
    assert "gateway/twice was answered" in explain("gateway/twice")


@pytest.mark.parametrize(
    ("asked", "request_id"), [("fa", "fails"), ("brain/fa", "fails"), ("nowh", "nowhere"), ("do", "done")]
)
def test_an_id_may_be_shortened_where_it_is_unique(
    data: Callable[[str], Any], asked: str, request_id: str
) -> None:
    """By what only it begins with, whether the grid remembers it or the log alone has it, as it has what
    was rejected."""
    assert data(asked)["request"] == f"brain/{request_id}"


def test_a_beginning_of_several_ids_lists_them(orion: Orion, explain: Explain) -> None:
    """Exit 2, and nothing is explained."""
    code, out, err = orion("explain", "f")
    assert (code, out) == (2, "")
    assert err == "orion: f is short for the ids of several requests, name one: brain/fails, brain/first\n"


def test_the_last_request_is_explained_without_its_name(data: Callable[[str], Any]) -> None:
    """The one that was accepted or ended last."""
    assert data("--last")["request"] == "brain/behind"


@pytest.mark.parametrize("words", [(), ("done", "--last")])
def test_a_request_is_named_or_the_last_one_asked_for(orion: Orion, words: tuple[str, ...]) -> None:
    """Neither, or both, is wrong usage."""
    code, _, err = orion("explain", *words)
    assert code == 2
    assert "name a request, or ask for the --last one" in err


@pytest.mark.parametrize("asked", ["nobody", "gateway/done", "/", "brain/", "one"])
def test_an_unknown_request_is_1(orion: Orion, explain: Explain, asked: str) -> None:
    """Exit 1, and one line that says what the log covers."""
    code, out, err = orion("explain", asked)
    assert (code, out) == (1, "")
    assert err.startswith(f"orion: the log has no request {asked} between positions 1 and ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_the_size_of_a_look_into_the_log_is_all_the_same(
    data: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Read in chunks of whatever size, the story is the same, positions and times included."""
    whole = data("fails"), data("nowhere")
    monkeypatch.setattr(explain_command, "CHUNK", chunk)
    assert (data("fails"), data("nowhere")) == whole
