"""An error of permission says who may not do what, on which key, and who may."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.runtime.connection import ask_one, connect
from orion_streams.runtime.permissions import denial, holders_of, keys_of
from tests.cli.run_cli import run
from tests.conftest import SERVERS
from tests.security.guarded import Guarded, guarded

READER, BRAIN, OWNER = "orion-reader", "orion-client-brain", "orion-owner"


@pytest.fixture(params=SERVERS)
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    """A server with all users."""
    with guarded(request.param, tmp_path / "data") as opened:
        yield opened


async def refused(held: Guarded, user: str, raw: bool, *command: Any) -> str:
    """What a command of that user is refused with, through redis-py or as the hot paths send it."""
    redis: Any = connect(held.url(user))
    async with redis:
        with pytest.raises(NoPermissionError) as caught:
            await (ask_one(redis, *command) if raw else redis.execute_command(*command))
    return str(caught.value)


CASES = {
    ("XADD", "orion:requests:brain", "*", "prompt", "secret"): f"log in as {BRAIN}",
    ("XADD", "orion:results:orion-worker", "*", "a", "secret"): "log in as orion-agent-orion-worker",
    ("XREAD", "STREAMS", "orion:log", "orion:replies:cli", "0", "0"): f"log in as {OWNER}",
    ("XRANGE", "orion:requests:key-anna", "-", "+"): f"log in as {OWNER}",
    ("HSET", "orion:guard", "number", "secret"): "log in as orion-router",
    ("XADD", "bus", "*", "a", "secret"): "that is an administrator's",
    ("DEL", "orion:log"): "that is an administrator's",
    ("CONFIG", "SET", "requirepass", "secret"): "that is an administrator's",
    ("SCAN", "0"): "log in as the grid's owner",
    ("MEMORY", "USAGE", "bus"): "that is an administrator's",
    ("ACL", "SETUSER", "x", ">secret"): "that is an administrator's",
}
TWO_WORDS = ("CONFIG", "MEMORY", "ACL")


@pytest.mark.parametrize("raw", [False, True])
async def test_a_refusal_names_user_command_key_and_who_may(held: Guarded, raw: bool) -> None:
    """In one line without any other argument, by real servers of both kinds; the user named may indeed."""
    for command, mend in CASES.items():
        said = await refused(held, READER, raw, *command)
        keys = [each for each in command if each.startswith("orion:") or each == "bus"]
        where = f" on {', '.join(keys)}" if keys and command[0] != "DEL" else ""
        name = " ".join(command[: 2 if command[0] in TWO_WORDS else 1])
        assert said.startswith(f"user {READER} may not run {name}{where}: {mend}"), said
        assert "secret" not in said
        assert "\n" not in said
        if " (--redis " in said:
            url = said.rpartition(" (--redis ")[2].rstrip(")")
            assert url.endswith(f"@127.0.0.1:{held.server.port}/0")
            name = url.removeprefix("redis://").partition("@")[0]
            async with connect(held.url(name)) as able:
                await ask_one(able, *command)


async def test_a_user_of_an_older_release_is_told_to_have_its_rights_renewed(held: Guarded) -> None:
    """The server's rules are not today's: nobody else need be found."""
    held.admin.execute_command("ACL", "SETUSER", "orion-router", "reset", "on", ">orion-router", "+ping")
    said = await refused(held, "orion-router", False, "XLEN", "orion:log")
    again = "orion acl orion-router --apply --passwords DIR"
    assert said == (
        "user orion-router may not run XLEN on orion:log: its rights are of another release: "
        f"{again}, as an administrator"
    )


async def test_a_commit_that_is_refused_names_its_keys(held: Guarded) -> None:
    """Of a script all keys count, and three are shown."""
    async with connect(held.url(READER)) as redis:
        with pytest.raises(NoPermissionError, match="may not run SCRIPT LOAD: that is an administrator's"):
            await RedisLog(redis, "orion:")._redis.script_load("return 1")
    command = ("EVALSHA", "x", 4, "orion:guard", "orion:log", "orion:work:a", "orion:replies:b", "body")
    said = str(denial("redis://h/0", READER, command))
    assert said == (
        f"user {READER} may not run EVALSHA on orion:guard, orion:log, orion:work:a and 1 more: "
        "log in as orion-router (--redis redis://orion-router@h/0)"
    )


def test_only_keys_are_ever_shown() -> None:
    """What is no key of a known command may be a password or a prompt."""
    assert keys_of(("AUTH", "user", "secret")) == []
    assert keys_of(("ACL", "SETUSER", "x", ">secret")) == []
    assert keys_of((b"XREADGROUP", "GROUP", "g", "c", b"STREAMS", "a", "b", ">", ">")) == [
        "a",
        "b",
    ]
    assert keys_of((b"memory", b"usage", b"a", "SAMPLES", 5)) == keys_of(("MEMORY USAGE", "a")) == ["a"]
    assert keys_of(("XINFO STREAM", "a")) == keys_of(("XADD", "a", "*", "prompt", "secret")) == ["a"]


def test_a_grid_of_another_prefix_has_users_of_its_own() -> None:
    """The key says which grid it is of."""
    assert holders_of("xadd", "{house2}:requests:brain") == ["house2-client-brain"]
    assert holders_of("xadd", "{house2}:requests:owner") == ["house2-owner"]
    assert holders_of("xrange", "{house2}:log")[0] == "house2-owner"
    assert holders_of("xadd", "house") == []


def test_the_command_line_says_it_in_one_line(held: Guarded, tmp_path: Path) -> None:
    """Who looks or asks as a user that may not reads one line, and of what can be mended its code, 78."""
    code, out, err = run(tmp_path, "nodes", ORION_REDIS_URL=held.url(BRAIN))
    assert (code, out) == (78, "")
    assert err == (
        f"orion: Redis refuses: user {BRAIN} may not run XREVRANGE on orion:log: log in as {OWNER} "
        f"(--redis redis://{OWNER}@127.0.0.1:{held.server.port}/0)\n"
    )
    asked = ("ask", "Why?", "--model", "gemma3:270m", "--client", "cli")
    code, _, err = run(tmp_path, *asked, ORION_REDIS_URL=held.url(BRAIN))
    assert code == 69
    assert f"user {BRAIN} may not run XREVRANGE on orion:replies:cli: log in as orion-client-cli" in err
    assert asyncio.run(refused(held, OWNER, False, "XADD", "orion:log", "*", "a", "b"))
