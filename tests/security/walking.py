"""The matrix: every command that matters, as every user, on every class of key. Run for real."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from orion_streams.config import Config
from orion_streams.model.commit import GROUP
from tests.security.guarded import Guarded

KEY = "{key}"
ON_KEYS = """
XADD {key} * head x; XADD {key} MAXLEN 0 * head x
XREAD STREAMS {key} 0; XRANGE {key} - +; XREVRANGE {key} + -
XREADGROUP GROUP agent agent STREAMS {key} >; XACK {key} agent 0-1
XTRIM {key} MINID 0; XDEL {key} 0-1; XLEN {key}
XINFO STREAM {key}; XINFO GROUPS {key}; XINFO CONSUMERS {key} agent
XGROUP CREATE {key} agent 0; XGROUP CREATECONSUMER {key} agent me; XGROUP SETID {key} agent 0
XGROUP DELCONSUMER {key} agent me; XGROUP DESTROY {key} agent
XCLAIM {key} agent me 0 0-1; XAUTOCLAIM {key} agent me 0 0
XPENDING {key} agent; XSETID {key} 9999999999999-0
TYPE {key}; EXISTS {key}; TTL {key}; TOUCH {key}; OBJECT ENCODING {key}; MEMORY USAGE {key}; DUMP {key}
HGETALL {key}; HGET {key} number; HMGET {key} number; HINCRBY {key} number 1
HSET {key} number 1; HDEL {key} nothing
DEL {key}; UNLINK {key}; EXPIRE {key} 1; PERSIST {key}; RENAME {key} {key}; COPY {key} {key}:copy
MOVE {key} 1; RESTORE {key} 0 x; GET {key}; SET {key} x
APPEND {key} x; INCR {key}; LPUSH {key} x; SADD {key} x; ZADD {key} 1 x; PFADD {key} x; SETBIT {key} 1 1
GEOADD {key} 1 1 x; SORT {key}; WATCH {key}; EVAL return 1 {key}
EVAL_RO return 1 {key}; EVALSHA {sha} 1 {key}; EVALSHA_RO {sha} 1 {key}; FCALL f 1 {key}
FCALL_RO f 1 {key}; MIGRATE 127.0.0.1 1 {key} 0 1
"""
WITHOUT_KEYS = """
PING; INFO; TIME
SCRIPT LOAD return{}; SCRIPT EXISTS {sha}; SCRIPT FLUSH; SCRIPT KILL
SELECT 1; KEYS *; SCAN 0; DBSIZE; RANDOMKEY
FLUSHDB; FLUSHALL; SWAPDB 0 1
MULTI; EXEC; DISCARD
CONFIG GET *; CONFIG SET maxmemory 1; CONFIG REWRITE; CONFIG RESETSTAT
ACL WHOAMI; ACL LIST; ACL SETUSER default on; ACL DELUSER admin; ACL SAVE
CLIENT ID; CLIENT LIST; CLIENT SETNAME x; CLIENT KILL TYPE normal; CLIENT PAUSE 1; CLIENT NO-EVICT on
COMMAND; SUBSCRIBE x; PSUBSCRIBE *; SSUBSCRIBE x; PUBLISH x y; SPUBLISH x y; MONITOR
SAVE; BGSAVE; BGREWRITEAOF; LASTSAVE; SHUTDOWN NOSAVE; DEBUG SLEEP 0
REPLICAOF 127.0.0.1 1; FAILOVER; PSYNC ? -1; SYNC; ROLE; WAIT 0 0; CLUSTER INFO
MODULE LIST; MODULE LOAD x; FUNCTION LOAD x; FUNCTION FLUSH; FUNCTION LIST
SLOWLOG GET; LATENCY LATEST; MEMORY STATS; LOLWUT
"""
Cell = tuple[str, str, str]
"""User, command, key without the grid's prefix; no key for a command without."""
OUTSIDE = ("/bus", "/orion", "/orions:log", "/x:orion:log", "/{orion}:log")
"""Keys of others on the same server."""
GUEST = "key-anna"
"""A client that the gateway added."""
UNKNOWN = ("other", "guards", "log:x", "requests", "worker:orion-worker", "snapshots:x")
"""Under the prefix, and nobody's."""


def lines(text: str) -> list[str]:
    """The commands of a table."""
    return text.strip().replace("\n", "; ").split("; ")


def streams(config: Config) -> list[str]:
    """All keys of a grid."""
    clients, nodes = [*config.clients, GUEST], config.nodes
    return [
        *(f"{kind}:{name}" for kind in ("requests", "parts", "replies") for name in clients),
        *(f"{kind}:{name}" for kind in ("work", "health", "results") for name in nodes),
        *("log", "guard", "grid", "snapshots"),
    ]


def prepare(held: Guarded) -> str:
    """Every key, as the router would make them, and a script. Its hash."""
    for name in (*streams(held.config), *UNKNOWN):
        key = held.config.key(name)
        held.admin.delete(key)
        if name in ("guard", "grid"):
            held.admin.hset(key, "number", 1)
        else:
            held.admin.xadd(key, {"head": "secret"})
    for name in held.config.nodes:
        held.admin.execute_command("XGROUP", "CREATE", held.config.key("work", name), GROUP, "0")
    for name in OUTSIDE:
        held.admin.set(name[1:], "theirs")
    return str(held.admin.execute_command("SCRIPT", "LOAD", "return 1").decode())


def walk(held: Guarded, names: Iterable[str]) -> set[Cell]:
    """What the server lets these users do. A refusal is NOPERM; any other answer means that it was run."""
    sha, config = prepare(held), held.config
    found: set[Cell] = set()
    for name in names:
        client = held.login(name)
        for line in lines(WITHOUT_KEYS):
            if runs(client, line.replace("{sha}", sha).split()):
                found.add((name, line, ""))
        for stream in (*streams(config), *UNKNOWN, *OUTSIDE):
            key = stream[1:] if stream[0] == "/" else config.key(stream)
            for line in lines(ON_KEYS):
                words = [word.replace(KEY, key) for word in line.replace("{sha}", sha).split()]
                if runs(client, words):
                    found.add((name, line, stream))
    return found


def runs(client: Any, words: list[str]) -> bool:
    """Whether the server lets the user run it. Debian refuses DEBUG and MODULE to everybody."""
    try:
        client.execute_command(*words)
    except NoPermissionError:
        return False
    except ResponseError as error:  # EXEC wraps its refusal
        return not any(words in str(error) for words in ("NOPERM", " command not allowed. If the "))
    return True
