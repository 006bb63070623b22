"""Every role, every command, every class of key: real servers refuse what is not in the table here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import structs
from redis.exceptions import ResponseError

from orion_streams.runtime import acl
from orion_streams.runtime.acl import Grant
from tests.conftest import SERVERS
from tests.security.guarded import Guarded, guarded, the_config
from tests.security.walking import GUEST, ON_KEYS, WITHOUT_KEYS, Cell, lines, streams, walk

CONFIG = the_config()
CLIENTS, NODES = CONFIG.clients, sorted(CONFIG.nodes)
WORKERS, ROBOT = [name for name in NODES if CONFIG.nodes[name].inference], "orion-edge"
PARTS = [f"parts:{name}" for name in [*CLIENTS, GUEST]]
REQUESTS, REPLIES = ([f"{kind}:{name}" for name in [*CLIENTS, GUEST]] for kind in ("requests", "replies"))
WORK, HEALTH, RESULTS = ([f"{kind}:{name}" for name in NODES] for kind in ("work", "health", "results"))
HEAD, TOLD = ["guard"], ["log", "snapshots", *HEALTH]
BODIES = [*REQUESTS, *REPLIES, *WORK, *RESULTS]
READS = ("XREAD STREAMS {key} 0", "XRANGE {key} - +", "XREVRANGE {key} + -")
WRITES = ("XADD {key} * head x", "XADD {key} MAXLEN 0 * head x")
MEASURES = ("XLEN {key}", "TYPE {key}", "MEMORY USAGE {key}")
GROUPS, STREAM = "XINFO GROUPS {key}", "XINFO STREAM {key}"
SCRIPT_LOAD = "SCRIPT LOAD return{}"

Rights = dict[str, list[str]]


def on(commands: tuple[str, ...], *keys: list[str]) -> Rights:
    """Each command on all of these keys."""
    return {command: [each for some in keys for each in some] for command in commands}


def of_client(name: str) -> Rights:
    """It writes its requests and parts, reads its replies, and sees who is read at all, and whether its
    parts are there."""
    sees = {"TIME": [""], "HGETALL {key}": ["grid"]}
    reads = {**on(READS, [f"replies:{name}"]), "XRANGE {key} - +": [f"replies:{name}", f"parts:{name}"]}
    return {**on(WRITES, [f"requests:{name}", f"parts:{name}"]), **reads, **sees}


def of_agent(name: str) -> Rights:
    """Three streams of its own, and everybody's parts."""
    taking = ("XREADGROUP GROUP agent agent STREAMS {key} >", "XACK {key} agent 0-1", GROUPS)
    writes = on(WRITES, [f"health:{name}"], [f"results:{name}"])
    return {**writes, **on(taking, [f"work:{name}"]), **on(("XRANGE {key} - +",), PARTS)}


ROUTER: Rights = {
    **on(("INFO", "TIME", SCRIPT_LOAD), [""]),
    **on(("EVALSHA {sha} 1 {key}",), ["guard", "log"], BODIES),
    **on((*READS, "TYPE {key}", STREAM, "HGETALL {key}", "HMGET {key} number"), HEAD, TOLD, BODIES),
    **on(("XLEN {key}", "MEMORY USAGE {key}"), HEAD, TOLD, BODIES, PARTS),
    **on(("HSET {key} number 1", "HDEL {key} nothing"), HEAD, ["grid"]),
    **on(WRITES, ["log", "snapshots"], WORK, REPLIES),
    **on(("XTRIM {key} MINID 0",), ["log", "snapshots"], REQUESTS, WORK, REPLIES, PARTS),
    **on(("XDEL {key} 0-1",), PARTS),
    **on(("XGROUP CREATE {key} agent 0",), WORK),
}
READER: Rights = {
    **on(("INFO", "TIME"), [""]),
    **on(("HGETALL {key}",), HEAD, ["grid"]),
    **on((*MEASURES, GROUPS), HEAD, TOLD, BODIES, PARTS),
    **on((*READS, STREAM), TOLD),
}
GATEWAY: Rights = {
    **on(("INFO", "TIME"), [""]),
    **on(WRITES, ["requests:gateway", f"requests:{GUEST}", "parts:gateway", f"parts:{GUEST}"]),
    **on(READS, ["replies:gateway", f"replies:{GUEST}", "log", "snapshots"]),
    **on(
        ("XRANGE {key} - +",),
        ["replies:gateway", f"replies:{GUEST}", "log", "snapshots", "parts:gateway", f"parts:{GUEST}"],
    ),
    **on(("HGETALL {key}",), HEAD, ["grid"]),
}
OBSERVER: Rights = {**READER, **on(("HGETALL {key}",), HEAD), **on((*READS, STREAM), TOLD, BODIES)}
OWNER: Rights = {
    **OBSERVER,
    **on(("SCAN 0",), [""]),
    **on(WRITES, ["requests:owner", "parts:owner"]),
    **on(("XRANGE {key} - +",), TOLD, BODIES, ["parts:owner"]),
    **on(("HGETALL {key}",), HEAD, ["grid"]),
}
EXPECTED: dict[str, Rights] = {
    **{f"orion-client-{name}": of_client(name) for name in CLIENTS if name != "owner"},
    **{f"orion-agent-{name}": of_agent(name) for name in WORKERS},
    f"orion-agent-{ROBOT}": on(WRITES, [f"health:{ROBOT}"]),
    "orion-router": ROUTER,
    "orion-gateway": GATEWAY,
    "orion-reader": READER,
    "orion-observer": OBSERVER,
    "orion-owner": OWNER,
}
"""Beside PING, nothing else may be run."""


def cells(user: str) -> set[Cell]:
    """What the table allows a user."""
    rights = {"PING": [""], **EXPECTED[user]}
    return {(user, command, key) for command, keys in rights.items() for key in keys}


@pytest.fixture(scope="module", params=SERVERS)
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with all users."""
    with guarded(request.param, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


def test_the_table_knows_every_user_and_names_what_the_walk_runs(held: Guarded) -> None:
    """No user and no row of the table is left out of the walk."""
    assert set(EXPECTED) == set(held.users)
    walked, keys = {*lines(ON_KEYS), *lines(WITHOUT_KEYS)}, {"", *streams(CONFIG)}
    assert all(set(rights) <= walked for rights in EXPECTED.values())
    assert all(set(some) <= keys for rights in EXPECTED.values() for some in rights.values())


@pytest.mark.parametrize("user", EXPECTED)
def test_a_user_may_do_what_the_table_says_and_nothing_else(held: Guarded, user: str) -> None:
    """Run for real: each command on each key, own, others', nobody's, and outside the prefix."""
    found, wanted = walk(held, [user]), cells(user)
    assert sorted(found - wanted) == [], "allowed beyond the table"
    assert sorted(wanted - found) == [], "refused against the table"


WIDER: dict[str, tuple[str, Grant]] = {
    "others' replies": ("orion-client-brain", Grant(("xread",), ("%R~orion:replies:*",))),
    "a wildcard name": ("orion-client-brain", Grant(("xadd",), ("%W~orion:requests:*",))),
    "the log": ("orion-client-cli", Grant(("xadd",), ("%W~orion:log",))),
    "forged results": ("orion-agent-orion-worker", Grant(("xadd",), ("%W~orion:results:*",))),
    "the robot's work": ("orion-agent-orion-edge", Grant(("xreadgroup",), ("%R~orion:work:orion-edge",))),
    "trimming": ("orion-agent-orion-worker", Grant(("xtrim",), ("%W~orion:work:orion-worker",))),
    "photos": ("orion-router", Grant(("xrange",), ("%R~orion:parts:*",))),
    "others' photos": ("orion-client-brain", Grant(("xrange",), ("%R~orion:parts:*",))),
    "prompts": ("orion-reader", Grant(("xrange",), ("%R~orion:requests:*",))),
    "the house's keys": ("orion-router", Grant(("xadd",), ("~*",))),
    "all keys": ("orion-reader", Grant(("keys",))),
    "the gateway as everybody": ("orion-gateway", Grant(("xadd",), ("%W~orion:requests:*",))),
    "a guest": ("orion-client-brain", Grant(("xadd",), ("%W~orion:requests:key-*",))),
    "the owner's log": ("orion-owner", Grant(("xadd",), ("%W~orion:log",))),
    "the owner as another": ("orion-owner", Grant(("xadd",), ("%W~orion:requests:*",))),
    "the owner's guard": ("orion-owner", Grant(("hset",), ("%W~orion:guard",))),
    "the owner as a node": ("orion-owner", Grant(("xadd",), ("%W~orion:results:*",))),
    "the owner trims": ("orion-owner", Grant(("xtrim",), ("%W~orion:replies:owner",))),
    "scripts": ("orion-client-gateway", Grant(("eval",), ("~orion:requests:gateway",))),
}


@pytest.mark.parametrize("which", WIDER)
def test_the_walk_sees_one_rule_too_many(held: Guarded, which: str) -> None:
    """Negative control: a user with one more rule does more than the table allows; set again, no longer."""
    name, more = WIDER[which]
    user = held.users[name]
    held.set([structs.replace(user, grants=(*user.grants, more))])
    assert walk(held, [name]) > cells(name)
    held.set([user])
    assert walk(held, [name]) == cells(name)


def test_every_other_command_of_the_server_is_refused(held: Guarded) -> None:
    """Of all commands and subcommands a user may run the table's and what needs no login."""
    before_login = {"auth", "hello", "quit", "reset"}
    known = dict(all_commands(held))
    assert len(known) > 300
    for name, user in held.users.items():
        granted = {command for grant in (user.plain, *user.grants) for command in grant.commands}
        assert granted <= set(known)
        assert {each for each, words in known.items() if may_run(held, name, words)} == (
            granted | before_login
        )
        assert granted == {command_of(line) for line in {"PING": [""], **EXPECTED[name]}}


def all_commands(held: Guarded) -> Iterator[tuple[str, list[str]]]:
    """Each command, or subcommand, with so many arguments as it needs."""
    for row in held.admin.execute_command("COMMAND"):
        subcommands = row[9] if len(row) > 9 else []
        for each in subcommands or [row]:
            name = each[0].decode()
            words = name.split("|")
            yield name, [*words, *["1"] * (abs(each[1]) - len(words))]


def may_run(held: Guarded, user: str, words: list[str]) -> bool:
    """Whether the command as such is allowed, on whatever keys."""
    try:
        answer = held.admin.execute_command("ACL", "DRYRUN", user, *words)
    except ResponseError as error:
        raise AssertionError(f"{words}: {error}") from error
    return b"no permissions to run" not in answer


def command_of(line: str) -> str:
    """The name that a rule gives to a command of the table."""
    words = line.lower().split()
    return "|".join(words[:2]) if words[0] in ("memory", "script", "xgroup", "xinfo") else words[0]


REFUSED = r"ACL failure|The user executing the script can't|not allowed from script"


@pytest.mark.parametrize(
    "body",
    [
        "redis.call('SET', 'bus', 'x')",
        "redis.call('XADD', 'orion:requests:brain', '*', 'id', 'forged')",
        "redis.call('XADD', 'orion:results:orion-worker', '*', 'head', 'forged')",
        "redis.call('DEL', 'orion:log')",
        "redis.call('FLUSHALL')",
        "redis.call('CONFIG', 'SET', 'maxmemory', '1')",
    ],
)
def test_a_script_has_its_callers_rights(held: Guarded, body: str) -> None:
    """The router may load any script, and none does what the router itself may not."""
    router = held.login("orion-router")
    sha = router.execute_command("SCRIPT", "LOAD", body)
    with pytest.raises(ResponseError, match=REFUSED):
        router.execute_command("EVALSHA", sha, 1, "orion:log")


def test_users_of_two_grids_do_not_meet() -> None:
    """Each prefix has users of its own, and the key patterns of one match no key of the other."""
    other = structs.replace(CONFIG, prefix="{orion2}:")
    mine, theirs = acl.users(CONFIG), acl.users(other)
    assert not {user.name for user in mine} & {user.name for user in theirs}
    assert {user.name for user in theirs} >= {"orion2-router", "orion2-client-brain"}
    patterns = [key for user in mine for grant in user.grants for key in grant.keys]
    assert all(pattern.split("~")[1].startswith("orion:") for pattern in patterns)


def test_the_gateway_is_also_who_an_address_stands_for() -> None:
    """The client of streams.toml that it names, and no other."""
    rules = structs.replace(CONFIG.gateway, addresses={"192.168.1.20": "brain", "10.0.0.0/8": "brain"})
    config = structs.replace(CONFIG, gateway=rules)
    keys = [key for grant in acl.gateway(config).grants for key in grant.keys]
    writes = [key for key in keys if key.startswith("%W~")]
    names = ("gateway", "key-*", "brain")
    assert writes == [f"%W~orion:{kind}:{name}" for kind in ("requests", "parts") for name in names]
    assert "%R~orion:replies:brain" in keys
    assert not any("cli" in key for key in keys)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("", False),
        ("redis://h:6379/0", False),
        ("redis://h", False),
        ("redis://h:6379/3", True),
        ("rediss://u:p@h/1", True),
        ("redis://h?db=2", True),
        ("unix:///run/redis.sock", False),
        ("unix:///run/redis.sock?db=1", True),
        ("redis+sentinel://h:1,h:2/house/0", False),
        ("redis+sentinel://h:1,h:2/house", False),
        ("redis+sentinel://u@h:1,h:2/house/4", True),
    ],
)
def test_select_is_granted_only_to_a_grid_in_another_database(url: str, wanted: bool) -> None:
    """A grid in database 0 needs no SELECT."""
    config = structs.replace(CONFIG, redis=structs.replace(CONFIG.redis, url=url))
    assert {("select" in user.plain.commands) for user in acl.users(config)} == {wanted}
