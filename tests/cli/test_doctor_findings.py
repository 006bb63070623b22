"""`orion doctor`, the pure part: of each fault one finding, of a healthy grid none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from orion_streams.cli.doctor.doctor_command import diagnose
from orion_streams.cli.doctor.findings import Facts, Finding, Group, Kept, Seen, Severity
from orion_streams.cli.doctor.node_findings import url_of
from orion_streams.cli.doctor.routing_findings import restore
from orion_streams.cli.doctor.server_findings import cli
from orion_streams.errors import LogError
from orion_streams.eventlog.loader import check_guard
from orion_streams.model.commit import Guard
from orion_streams.model.policy import DECIDER, ModelRules
from orion_streams.model.state import Rest
from orion_streams.model.vocabulary import Mark
from tests.cli.doctor_facts import (
    NOW,
    URL,
    all_hot,
    asked,
    fact,
    gone,
    healthy,
    info,
    pi,
    rules,
    state,
    stream,
)
from tests.conftest import MemoryStore
from tests.grids import AT_MS, MODEL, holding


def test_a_healthy_grid_is_ok() -> None:
    """Every finding is ok, each part of the grid has one, and none has anything to mend."""
    found = diagnose(healthy())
    assert found.severity == "ok"
    assert [each for each in found.findings if each.mend] == []
    abouts = {"redis", "router", "configuration", "archive", "pi", "pi2", "orion-edge", "requests"}
    assert {each.about for each in found.findings} == abouts


P: Severity = "problem"
W: Severity = "warning"
FAULTS: dict[str, tuple[Callable[[Facts], None], Severity, str, str, str]] = {
    "old": (info(redis_version="6.2.1"), P, "redis", "too old", "apt install"),
    "replica": (info(role="slave", master_host="a", master_port=1), P, "redis", "read-only replica", "a:1"),
    "volatile": (info(aof_enabled=0), P, "redis", "keeps nothing", "CONFIG SET appendonly yes"),
    "evicts": (
        info(maxmemory=10**9, maxmemory_policy="allkeys-lru"), P, "redis", "may drop streams", "noeviction",
    ),
    "evicted": (info(evicted_keys=3), P, "redis", "dropped 3 keys", "noeviction"),
    "loading": (info(loading=1, loading_eta_seconds=9), P, "redis", "loads its data, about 9 s", "wait"),
    "disk": (info(aof_last_write_status="err"), P, "redis", "MISCONF", "df -h"),
    "rewrite": (info(aof_last_bgrewrite_status="err"), W, "redis", "rewritten", "df -h"),
    "bgsave": (info(rdb_last_bgsave_status="err"), P, "redis", "last snapshot failed", "BGSAVE"),
    "tight": (info(maxmemory=60_000_000), W, "redis", "50 of 60 MB (83.3 %", "CONFIG SET maxmemory"),
    "full": (info(maxmemory=51_000_000), P, "redis", "soon refuses writes", "CONFIG SET maxmemory"),
    "clock ahead": (fact(clock_off_ms=3_600_000), W, "redis", "60 min ahead of", "timedatectl"),
    "clock behind": (fact(clock_off_ms=-6_000), W, "redis", "6.0 s behind", "timedatectl"),
    "slow": (fact(ping_ms=80.0), W, "redis", "PING takes 80 ms", "--latency"),
    "script": (fact(script_p99_ms=2.5), W, "redis", "2.5 ms or more", "max_bytes"),
    "nobody": (
        fact(waiting={"health:pi": f"{AT_MS - 83_000}-0"}, silence_ms=90_000), P, "router",
        "nobody commits: health:pi wait, the oldest entry for 83 s; the last commit was 90 s ago",
        f"orion router --redis {URL}",
    ),
    "lost log": (fact(last=0, grid=None), P, "router", "g:log is gone, g:guard is at commit 9", "put back"),
    "empty": (fact(last=0, grid=None, guard=Guard()), P, "router", "no router has run", "orion router"),
    "lost tail": (
        stream("requests:brain", top="7-0"), P, "router", "entries were lost",
        "HSET g:guard 'cursor requests:brain' 7-0",
    ),
    "lost guard": (
        fact(guard=Guard(), numbers=(0, 0)), P, "router", "g:guard is at commit 0, g:log at 1", "put back",
    ),
    "newer file": (rules(revision=2), W, "configuration", "not in force yet", "restart the router"),
    "older file": (rules(revision=4), W, "configuration", "the log's rules hold", "copy"),
    "other rules": (rules(policy_id="x"), P, "configuration", "a router refuses", "set revision = 4"),
    "program": (
        rules(policy_id="x", decider=DECIDER + 1), W, "configuration", "decides by version", "same version",
    ),
    "no snapshots": (fact(snapshots=(), archive=None), W, "router", "no snapshot", "router's log"),
    "archive gap": (fact(archive=Kept(True, 50)), P, "archive", "positions 51 to 100 were trimmed", "df"),
    "archive broken": (fact(archive=Kept(True, error="f: line 3: bad")), P, "archive", "line 3", "df"),
    "archive stands": (
        fact(archive=Kept(True, 9000), first=9001, last=9990, snapshots=(9950, 9900)), W, "archive",
        "reaches position 9000; up to 9900", "orion log archive",
    ),
    "foreign": (stream("replies:cli", kind="string"), P, "streams", "g:replies:cli is a string", "RENAME"),
    "health": (stream("health:pi", entries=9_000), W, "streams", "g:health:pi has 9000", "trim"),
    "results": (stream("results:pi", entries=90_000), W, "streams", "g:results:pi has 90000", "trim"),
    "replies": (stream("replies:brain", entries=60_000), W, "streams", "kept are 50000", "replies_entries"),
    "requests": (stream("requests:brain", entries=9_000), W, "streams", "g:requests:brain", "router"),
    "work": (stream("work:pi", entries=9_000), W, "streams", "g:work:pi", "orion agent --node pi"),
    "log": (stream("log", size=400_000_000), W, "streams", "g:log takes 400 MB", "trims below"),
    "photos": (
        stream("parts:brain", size=200_000_000), W, "streams", "g:parts:brain takes 200 MB",
        "orion acl --apply",
    ),
    "unread requests": (
        fact(unread={"requests:kitchen": 7}), W, "streams", "g:requests:kitchen has 7 entries, and nobody",
        "add [clients.kitchen]",
    ),
    "unread rest": (fact(unread={"work:old": 2}), W, "streams", "g:work:old has 2", "DEL g:work:old"),
    "stuck sensor": (
        state(temp_mc=50_100, still_ms=700_000, sensor="cpu-thermal"), P, "pi",
        "its sensor (cpu-thermal) has shown 50.1 °C for 11 min of work", "look at the sensor",
    ),
    "group": (
        fact(groups={"work:pi": None}), P, "streams", "work:pi has no group", f"orion router --redis {URL}"
    ),
    "silent": (gone(heard_ms=None), P, "pi", "never heard from", f"orion agent --node pi --redis {URL}"),
    "stale": (gone(heard_ms=AT_MS - 9_000), P, "pi", "not heard from for 9.0 s", "orion agent --node pi"),
    "left": (
        state(leaving=True, left=True, heard_ms=AT_MS - 9_000), W, "pi",
        "its agent was stopped, and said goodbye 9.0 s ago", f"orion agent --node pi --redis {URL}",
    ),
    "leaving": (state(leaving=True), "ok", "pi", "its agent is about to stop: 0 in hand", ""),
    "drained": (
        state(rest=Rest("owner", AT_MS - 9_000, 7_200_000)), "ok", "pi",
        "owner drained it for 2 h, 9.0 s ago: 0 in hand", "orion resume pi",
    ),
    "drained and away": (
        state(rest=Rest("owner", AT_MS - 9_000), heard_ms=AT_MS - 9_000), "ok", "pi",
        "owner drained it until it is resumed, 9.0 s ago", "orion resume pi",
    ),
    "hot": (
        state(temp_mc=76_000, backed_off=(Mark.HOT,)), W, "pi", "too hot: 76.0 °C now, its mark is 75.0 °C",
        "at 70.0 °C or below for 3 samples",
    ),
    "ram": (
        state(ram_used_mb=7_400, backed_off=(Mark.RAM,)),
        W, "pi", "memory too full: 92.5 % now", "at 85.0 %",
    ),
    "breaker": (
        state(opened_ms=AT_MS - 1_000, open_ms=15_000, trips=2, suspects=("a", "b")), W, "pi",
        "breaker is open after failures (a, b), 2 times", "one probe in 14 s",
    ),
    "sensor": (state(temp_mc=None), P, "pi", "no temperature", "temperature_sensor = false"),
    "ollama away": (state(inventory_known=False), P, "pi", "models are unknown", "systemctl status ollama"),
    "no models": (state(installed={}, resident={}), P, "pi", "no model on disk", "ollama pull"),
    "two agents": (state(two_agents_ms=AT_MS - 1), P, "pi", "two agents", "pgrep -af 'orion agent"),
    "leftover": (state(resident={}, ram_used_mb=3_000), W, "pi", "3000 MB are used and no model", "ps aux"),
    "odd rows": (
        state(left_out=2, left_out_why="m:1b: a size of -1 bytes"), W, "pi",
        "2 rows are left out of what its Ollama lists, the first for m:1b: a size of -1", "api/tags",
    ),
    "pinned nowhere": (
        rules(models={"big:27b": ModelRules(resident_on=("pi",))}), W, "pi",
        'big:27b is not on its disk, though models."big:27b".resident_on', "on pi: ollama pull big:27b",
    ),
    "pinned in another case": (
        rules(models={MODEL.upper(): ModelRules(resident_on=("pi",))}), W, "pi",
        f"it lists {MODEL.upper()} as {MODEL}", f'write [models."{MODEL}"]',
    ),
    "odd sensor": (
        state(temp_mc=None, sensor="cpu-thermal gives 92"), P, "pi",
        "no temperature reading, so it takes nothing: cpu-thermal gives 92", "sensor = false",
    ),
    "named sensor": (state(sensor="cpu-thermal (thermal_zone0)"), "ok", "pi", " by cpu-thermal", ""),
    "voltage": (
        state(throttled=0b1101), W, "pi", "now: under-voltage, throttled, at the soft", "power supply",
    ),
    "capped": (state(throttled=0b10), W, "pi", "frequency is capped", "cooling"),
    "unreachable": (
        fact(ollamas={"pi": Seen(error="refused")}), W, "pi", "from here: refused", "systemctl",
    ),
    "nobody takes": (
        all_hot, W, "requests", "2 wait and no node takes them: pi hot, pi2 hot", "orion explain brain/q0",
    ),
    "crowded": (asked(950), W, "requests", "client brain has 950 of 1000", "max_open"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    """One thing is wrong: a finding says so under its name and severity, with the line that mends it."""
    change, severity, about, what, mend = FAULTS[fault]
    facts = healthy()
    change(facts)
    found = diagnose(facts)
    assert found.severity == severity
    assert [
        each
        for each in found.findings
        if (each.severity, each.about) == (severity, about) and what in each.what and mend in each.mend
    ] != [], "\n".join(map(str, found.findings))


def findings(change: Callable[[Facts], None], about: str) -> list[Finding]:
    """What is said of one thing when something is otherwise."""
    facts = healthy()
    change(facts)
    return [each for each in diagnose(facts).findings if each.about == about]


def test_a_number_that_moves_is_a_router() -> None:
    """Entries wait, as under load, and the guard's number moves: somebody commits."""
    waiting = {"requests:brain": f"{AT_MS - 60_000}-0"}
    assert findings(fact(waiting=waiting, numbers=(9, 9)), "router")[0].severity == "problem"
    assert findings(fact(waiting=waiting, numbers=(9, 10)), "router")[0].severity == "ok"
    assert findings(fact(waiting={"requests:brain": NOW}), "router")[0].severity == "ok"


def test_a_node_whose_router_sleeps_is_not_blamed() -> None:
    """The log has not heard of it for long, but its stream goes on: the agent is alive."""
    [found] = findings(state(heard_ms=AT_MS - 60_000), "pi")
    assert (found.severity, found.what) == ("ok", "its agent reports, but no router has read it yet")


def test_a_commit_during_the_look_is_no_loss() -> None:
    """The guard is read before the log, which goes on meanwhile: only its newest number counts."""
    facts = healthy()
    rules(number=12)(facts)
    facts.numbers = (9, 12)
    assert diagnose(facts).severity == "ok"
    facts.numbers = (9, 11)
    assert any("g:guard is at commit 11, g:log at 12" in each.what for each in diagnose(facts).findings)


async def test_a_lost_log_has_one_advice() -> None:
    """Doctor says of a log or guard that was lost what the router says that ends for it."""
    with pytest.raises(LogError) as said:
        await check_guard(MemoryStore().log, Guard(), 1, 0, "g:")
    advice = restore(healthy()).replace(f"redis-cli -u {URL}", "redis-cli")
    assert str(said.value).endswith(advice[0].upper() + advice[1:])


def test_since_when_a_node_is_out_is_said() -> None:
    """The moment is taken from the log where it is known."""
    facts = healthy()
    state(temp_mc=76_000, backed_off=(Mark.HOT,))(facts)
    facts.since_ms = {"pi": AT_MS - 42_000}
    assert "backed off for 42 s, too hot" in next(
        each.what for each in diagnose(facts).findings if each.about == "pi"
    )


def test_work_of_an_agent_that_is_gone_is_named() -> None:
    """Entries were read by an agent that is silent: how many, and what ends them."""
    facts = healthy()
    gone(heard_ms=AT_MS - 9_000)(facts)
    facts.groups["work:pi"] = Group(2)
    found = [each for each in diagnose(facts).findings if each.about == "pi"]
    assert any("2 entries of its work were read and not ended" in each.what for each in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (fact(away="refused"), "does not answer: refused"),
        (fact(refused="WRONGPASS"), "cannot be used so: WRONGPASS"),
    ],
)
def test_without_the_server_only_that_is_said(change: Callable[[Facts], None], words: str) -> None:
    """One problem, with its mend, and nothing about what could not be seen."""
    facts = healthy()
    change(facts)
    [found] = diagnose(facts).findings
    assert (found.severity, found.about) == ("problem", "redis")
    assert words in found.what
    assert found.mend


def test_what_could_not_be_read_is_said_and_the_rest_goes_on() -> None:
    """A check that is forbidden, one that found damage: each by name, beside all others."""
    facts = healthy()
    facts.failed = {"grid": "the log has a gap: after 3 comes 5"}
    facts.denied = {"work:pi": "user x may not run XINFO STREAM on g:work:pi", "work:pi2": "user x may not"}
    facts.grid = None
    found = diagnose(facts)
    said = [(each.severity, each.about) for each in found.findings if each.severity != "ok"]
    assert said == [("warning", "doctor"), ("problem", "router")]
    [denied] = [each for each in found.findings if each.about == "doctor"]
    assert denied.what == (
        "work:pi and 1 more were not looked at: user x may not run XINFO STREAM on g:work:pi"
    )
    assert denied.mend == "orion doctor --redis redis://g-owner@house:6379/0"
    assert any("after 3 comes 5" in each.what and "put back" in each.mend for each in found.findings)


def test_what_waits_is_counted_by_what_it_waits_for() -> None:
    """Two requests wait for a busy node: how many, for which node, and the oldest one's age."""

    def busy(facts: Facts) -> None:
        assert facts.grid is not None
        asked(2, accepted_ms=AT_MS - 7_000)(facts)
        held = {"3-0": holding(run_ms=60_000)}
        facts.grid.nodes |= {
            "pi": pi("pi", assignments=held),
            "pi2": pi("pi2", assignments={"4-0": holding()}),
        }

    [found] = findings(busy, "requests")
    assert found.what == "2 open, 2 of them waiting (2 for pi2), the oldest is 7.0 s old"


def test_every_node_of_only_one_side_is_named() -> None:
    """Nodes that file and log do not share are named with the other revision."""
    facts = healthy()
    assert facts.grid is not None
    facts.grid = replace(facts.grid, revision=4, nodes={"pi": pi("pi"), "old": pi("old")})
    [found] = [each for each in diagnose(facts).findings if each.about == "configuration"]
    assert "only streams.toml has orion-edge, pi2; only the log has old" in found.what


def test_the_keys_of_others_are_counted() -> None:
    """A house Redis: how many keys are under the prefix, and how many are not."""
    ours = len(healthy().streams)
    [first, *_] = findings(info(db0={"keys": ours + 5}), "redis")
    assert first.what == f"Redis 7.0.15 at {URL}: {ours} keys under g:, beside 5 keys of others"


def test_the_public_row_is_one_of_ours() -> None:
    """It is no stream, and not a key of others."""
    facts = healthy()
    ours = len(facts.streams)
    facts.has_row = True
    facts.info["db0"] = {"keys": ours + 2}
    [first, *_] = [each for each in diagnose(facts).findings if each.about == "redis"]
    assert first.what == f"Redis 7.0.15 at {URL}: {ours + 1} keys under g:, beside 1 key of others"


def test_who_may_mend_it_is_named() -> None:
    """Where the server has users, the grid's own may not: the line asks for an administrator."""
    facts = healthy()
    assert cli(facts) == f"redis-cli -u {URL}"
    facts.url = "rediss://orion-observer@house:6379/0"
    assert cli(facts) == "redis-cli --user ADMIN --askpass -u rediss://house:6379/0"


def test_advice_on_an_ollama_names_its_own_url() -> None:
    """As streams.toml has it."""
    facts = healthy()
    assert url_of(facts, "pi") == "http://127.0.0.1:11434"


AS_USERS: dict[str, tuple[Callable[[Facts], None], str]] = {
    "router": (fact(last=0, grid=None, guard=Guard()), "orion router --redis redis://g-router@house:6379/0"),
    "agent": (
        gone(heard_ms=None), "on pi: orion agent --node pi --redis redis://g-agent-pi@house:6379/0"
    ),
    "work": (
        stream("work:pi", entries=9_000),
        "is its agent running? orion agent --node pi --redis redis://g-agent-pi@house:6379/0",
    ),
    "archive": (
        fact(archive=Kept(True, 50)),
        "df -h /srv/archive; ls -ld /srv/archive; then "
        "`orion log archive /srv/archive --redis redis://g-owner@house:6379/0`",
    ),
    "photos": (
        stream("parts:brain", size=200_000_000),
        "orion router --redis redis://g-router@house:6379/0; where the server has users: "
        "orion acl --apply --passwords DIR --redis redis://ADMIN@house:6379/0",
    ),
    "password": (
        fact(refused="WRONGPASS"),
        "put the password into ORION_REDIS_PASSWORD or redis.password_file, the user into the URL, e.g. "
        "--redis redis://g-owner@house:6379/0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", AS_USERS)
def test_advice_names_a_user_that_has_the_right(which: str) -> None:
    """Where doctor looks as the owner, each line names the user of the role that it starts."""
    change, mend = AS_USERS[which]
    facts = healthy()
    facts.url = "redis://g-owner@house:6379/0"
    change(facts)
    assert mend in [each.mend for each in diagnose(facts).findings]
