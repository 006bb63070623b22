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
from orion_streams.cli.explain_command import Search
from orion_streams.cli.log_lines import Line
from orion_streams.cli.request_story import Story, story_of
from orion_streams.cli.story_view import page, verdict
from orion_streams.config import Config, parse
from orion_streams.decider.route import route
from orion_streams.model import events as ev
from orion_streams.model.events import TERMS, Verdict
from orion_streams.model.state import Closed, Grid
from orion_streams.model.text import held_back
from orion_streams.model.vocabulary import Blame, Filter, RequestKind, RequestState
from tests.cli.conftest import Orion
from tests.cli.run_cli import MODEL, OTHER, with_store
from tests.conftest import ServerStore
from tests.grids import AT_MS, grid, node, request
from tests.helpers import Agent, ask, settle

PREFIX = "explained:"
TOML = """
revision = 1
prefix = "{prefix}"
[redis]
url = "{url}"
[policy]
stale_ms = 3600000
min_stay_ms = 0
retry_ms = 300000
[nodes.edge]
inference = false
ollama = ""
[nodes.master]
tiers = [1]
[nodes.worker]
tiers = [2]
"""
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
        assert (code, err) == (0, "")
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
    assert "+ retry 300 s" in out
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


@pytest.mark.parametrize("asked", ["nobody", "gateway/done", "", "/", "do"])
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


KEY = "brain/x"
ACCEPTED = ev.RequestAccepted(KEY, "1-0", RequestKind.GENERATE, MODEL, 60_000, 100, 20)


def told(*happened: ev.AnyEvent, state: Grid | None = None) -> Story:
    """The story of these events, each a second after the one before."""
    lines = [Line(at, 1_700_000_000_000 + 1000 * at, event) for at, event in enumerate(happened, start=1)]
    return story_of(KEY, lines, state or Grid())


def text_of(story: Story, width: int = 80) -> str:
    """Its screen."""
    return "\n".join(row.text for row in page(story, width))


def routed(attempt: int, node: str = "one") -> ev.RequestRouted:
    """A decision with a bit of everything in it."""
    verdicts = (
        Verdict(node="one", cost_ms=1_500, decode_ms=1_500),
        Verdict(node="two", filter=Filter.HOT, value=76_100, limit=75_000),
    )
    return ev.RequestRouted(KEY, attempt, node, "p", 1, verdicts, f"{attempt}-0")


def test_of_many_attempts_the_first_and_the_last_are_shown() -> None:
    """More than six decisions: so many are left out, and the screen says how many."""
    tries: list[ev.AnyEvent] = []
    for attempt in range(1, 21):
        tries += [
            routed(attempt),
            ev.AttemptFailed(KEY, attempt, "one", f"{attempt}-0", "broken", Blame.NODE),
        ]
    story = told(ACCEPTED, *tries, ev.RequestFailed(KEY, "attempts_exhausted"))
    out = text_of(story)
    assert "… 14 decisions are left out; --json has them all" in out
    shown = [attempt for attempt in range(1, 21) if f"attempt {attempt} goes to" in out]
    assert shown == [1, 2, 17, 18, 19, 20]
    assert "ended as an error after 41 s: attempts_exhausted." in " ".join(out.split())
    assert "left out" not in text_of(told(ACCEPTED, *tries[:12]))


def test_of_many_nodes_the_cheapest_are_shown() -> None:
    """A decision among a thousand nodes is a dozen lines, the chosen one first."""
    verdicts = tuple(
        Verdict(node=f"n{at:03}", cost_ms=2_000 - at, decode_ms=2_000 - at) for at in range(1_000)
    )
    out = text_of(told(ACCEPTED, ev.RequestRouted(KEY, 1, "n999", "p", 1, verdicts)))
    assert "… and 988 more nodes" in out
    assert out.index("→ n999") < out.index("n998") < out.index("n988")
    assert "n987" not in out


def test_resends_in_a_row_are_counted() -> None:
    """However often a client sends it again, it is one line."""
    out = text_of(told(ACCEPTED, *[ev.RequestResent(KEY)] * 40, routed(1), ev.RequestResent(KEY)))
    assert out.count("sent again") == 2
    assert "sent again 40 times" in out


def test_a_story_without_its_beginning_is_told_from_what_is_left() -> None:
    """Where the log is trimmed above its acceptance, the rest of it is shown, and that it is the rest."""
    out = text_of(told(routed(1), ev.RequestStarted(KEY, 1, "1-0")))
    assert "which is trimmed from the log" in out
    assert "attempt 1 started" in out


def test_a_request_that_is_open_and_trimmed_is_told_from_the_grid() -> None:
    """Nothing of it is left in the log, but the grid knows where it is."""
    state = grid(
        node("one"), open_requests={KEY: request(node="one", work_id="1-0", attempt=1, started=True)}
    )
    out = text_of(told(state=state))
    assert out.startswith(f"{KEY} runs on one, ")
    assert "accepted at position 1, which is trimmed" in out


def test_what_is_remembered_and_trimmed_is_named() -> None:
    """The log is trimmed above all of it: how it ended is still known."""
    state = Grid(position=90, closed={"brain": {KEY: Closed(RequestState.DONE, "1-0", 1)}})
    assert explain_command.missing(KEY, state, 50) == (
        f"{KEY} ended as done before position 50, where what is left of the log begins"
    )
    assert explain_command.missing("brain/y", state, 50).endswith(
        "; what was before position 50 is trimmed"
    )


def search(asked: str, *events: ev.AnyEvent, goal: frozenset[str] = frozenset()) -> dict[str, list[Line]]:
    """What is found in a log of these events, one commit each."""
    looking = Search(asked, set(goal))
    rows: list[tuple[int, bytes]] = []
    for number, event in enumerate(events):
        head = ev.Committed(number, 5_000 + number, 1, True, "")
        rows += [(2 * number + 1, ev.encode(head)), (2 * number + 2, ev.encode(event))]
    looking.take(rows)
    return looking.found()


def test_of_an_id_that_was_used_again_the_last_life_is_told() -> None:
    """A rejected request that was sent again and accepted; an id that was forgotten and used anew."""
    rejected, closed = ev.RequestRejected(KEY, "queue_full"), ev.RequestCancelled(KEY)
    found = search("x", rejected, ACCEPTED, closed, ACCEPTED, routed(1))
    assert [(line.position, line.server_ms) for line in found[KEY]] == [(8, 5_003), (10, 5_004)]
    assert [line.position for line in search(KEY, ACCEPTED, closed, rejected)[KEY]] == [6]


def test_an_id_is_found_whole() -> None:
    """Neither a part of an id nor another client's name is taken for it; quotes and slashes do no harm."""
    odd = 'a "b"/c'
    accepted = msgspec.structs.replace(ACCEPTED, request=f"brain/{odd}")
    assert set(search(odd, accepted, ACCEPTED)) == {f"brain/{odd}"}
    assert set(search(f"brain/{odd}", accepted)) == {f"brain/{odd}"}
    assert search("c", accepted) == {}
    assert search("gateway/x", ACCEPTED) == {}


def test_an_entry_that_could_not_be_read_is_called_by_its_id() -> None:
    """A malformed request has no name in the log but its entry's."""
    broken = ev.InputRejected("requests:brain", "17-0", "bad_json")
    [(key, lines)] = search("17-0", broken).items()
    out = text_of(story_of(key, lines, Grid()))
    assert out.startswith("brain/17-0 was rejected: bad_json. A JSON field cannot be read")
    assert search("17-0", ev.InputRejected("health:one", "17-0", "unreadable")) == {}


def test_only_remembered_requests_are_meant_by_an_id_alone() -> None:
    """Where the grid remembers one of that id, an older one of another client is left aside."""
    other = msgspec.structs.replace(ACCEPTED, request="gateway/x")
    assert set(search("x", other, ACCEPTED)) == {KEY, "gateway/x"}
    assert set(search("x", other, ACCEPTED, goal=frozenset({KEY}))) == {KEY}


FILTERS = {
    "role": (0, 0, "not a node that answers requests"),
    "silent": (0, 0, "never heard from"),
    "stale": (7_200, 5_000, "not heard from for 7.2 s, limit 5.0 s"),
    "inventory_unknown": (0, 0, "not known which models it has"),
    "not_installed": (0, 0, "does not have the model on disk"),
    "tier": (2, 0, "may not take requests of tier 2"),
    "too_large": (9_000, 6_708, "too small for the model: it takes 9000 MB, limit 6708 MB"),
    "two_agents": (0, 0, "two agents claim to be this node"),
    "no_temperature": (0, 0, "no temperature reading"),
    "hot": (76_100, 75_000, "too hot: 76.1 °C, limit 75.0 °C"),
    "ram": (912, 900, "memory too full: 91.2 % RAM, limit 90.0 % RAM"),
    "breaker": (5_000, 15_000, "breaker open after failures: 5.0 s of 15 s over"),
    "memory": (2_400, 1_100, "no room to load the model now: it takes 2400 MB, limit 1100 MB"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_is_said_in_plain_words(name: str) -> None:
    """With the value that tripped it, its limit and the unit."""
    value, limit, words = FILTERS[name]
    assert held_back(Verdict(node="one", filter=Filter(name), value=value, limit=limit)).startswith(words)


def test_a_node_that_cools_down_is_not_called_too_hot_by_its_value() -> None:
    """Backed off, below the lower mark, and not yet calm for long enough."""
    assert held_back(Verdict(node="one", filter=Filter.HOT, value=69_000, limit=70_000)).startswith(
        "too hot of late, not calm yet: 69"
    )


def test_a_cost_is_the_sum_of_its_terms() -> None:
    """Every term of a cost is named, the cached part is subtracted, and what goes for it is told."""
    terms: dict[str, Any] = {
        f"{name}_ms": 1 for name in ("drain", "load", "evict", "prefill", "cached", "decode")
    }
    terms |= {f"{name}_ms": 2 for name in ("heat", "spill", "retry", "late")}
    words = verdict(Verdict(node="one", cost_ms=12, evicts=("a", "b"), **terms)).replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert words == (
        "= drain 1 ms + load 1 ms + others 1 ms + prefill 1 ms - cached 1 ms + decode 1 ms + heat 2 ms"
        " + spill 2 ms + retry 2 ms + late 2 ms (unloads a, b)"
    )
    assert verdict(Verdict(node="one")) == "= nothing to do"


def test_every_term_of_a_real_verdict_is_in_the_sum() -> None:
    """The terms that the screen knows add up to the cost that routing gave."""
    state = grid(node("one", temp_mc=72_000, forecast_mc=73_000, heard_ms=AT_MS - 3_000))
    asked = request(session="s", tier=2, num_ctx=4_096)
    [found] = route(state, asked).verdicts
    total = sum(getattr(found, f"{name}_ms") * (-1 if name == "cached" else 1) for name in TERMS)
    assert total == found.cost_ms > 0
