"""Findings about the server: whether it answers, keeps the grid, and is fast. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orion_streams.cli.doctor.findings import Facts, Finding
from orion_streams.model.server_urls import with_user, without_user
from orion_streams.model.text import percent, seconds
from orion_streams.runtime import acl
from orion_streams.runtime.server_check import weakness

ABOUT = "redis"
TIGHT_PERMILLE, FULL_PERMILLE = 800, 950
CLOCK_OFF_MS = 5_000
SLOW_PING_MS, SLOW_SCRIPT_MS = 50.0, 1.0


def server(facts: Facts) -> Iterator[Finding]:
    """Yield findings about the server."""
    if facts.refused:
        user = with_user(facts.url, acl.user_name(facts.config, acl.OWNER))
        mend = (
            "put the password into ORION_REDIS_PASSWORD or redis.password_file, the user into the URL, "
            f"e.g. --redis {user}"
        )
        yield Finding("problem", ABOUT, f"Redis at {facts.url} cannot be used so: {facts.refused}", mend)
        return
    if facts.away:
        what = f"Redis at {facts.url} does not answer: {facts.away}"
        mend = (
            "sudo systemctl start orion-server (or redis-server, or `orion up`: whichever it is), or name "
            "another with --redis URL"
        )
        yield Finding("problem", ABOUT, what, mend)
        return
    info = facts.info
    if info:
        yield Finding("ok", ABOUT, describe(facts))
        yield from standing(facts, info)
        yield from persistence(facts, info)
        yield from memory(facts, info)
    yield from clock(facts)
    yield from pace(facts)


def describe(facts: Facts) -> str:
    """Describe the server in a sentence."""
    info = facts.info
    name = (
        f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    )
    ours = sum(stream.kind != "none" for stream in facts.streams.values()) + facts.has_row
    row: Any = info.get(f"db{facts.database}", {})
    others = max(int(row.get("keys", 0)) - ours, 0) if isinstance(row, dict) else 0
    house = f", beside {others} key{'' if others == 1 else 's'} of others" if others else ""
    return f"{name} at {facts.url}: {ours} keys under {facts.config.prefix}{house}"


def standing(facts: Facts, info: dict[str, Any]) -> Iterator[Finding]:
    """Yield what makes a router refuse the server at its start: version, role, persistence, eviction."""
    complaint = weakness(info, allow_volatile=False)
    if complaint is not None:
        what, mend = complaint
        yield Finding("problem", ABOUT, f"it {what}", mend.format(cli=cli(facts)))
    if info.get("loading"):
        left = info.get("loading_eta_seconds", "?")
        yield Finding("problem", ABOUT, f"it loads its data, about {left} s more", "wait for it")


def persistence(facts: Facts, info: dict[str, Any]) -> Iterator[Finding]:
    """Yield failures of its last writes to disk."""
    where = f"{cli(facts)} CONFIG GET dir; df -h; then the server's own log"
    if info.get("aof_enabled") and info.get("aof_last_write_status", "ok") != "ok":
        what = (
            "its append-only file cannot be written: it refuses writes (MISCONF) until the disk takes them"
        )
        yield Finding("problem", ABOUT, what, where)
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield Finding("warning", ABOUT, "its append-only file could not be rewritten: it grows", where)
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        mend = f"free the disk, then {cli(facts)} BGSAVE"
        yield Finding("problem", ABOUT, "its last snapshot failed: it may refuse writes (MISCONF)", mend)


def memory(facts: Facts, info: dict[str, Any]) -> Iterator[Finding]:
    """Yield how much memory is left, and whether keys were evicted."""
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if limit:
        permille = used * 1000 // limit
        what = f"it uses {used // 1_000_000} of {limit // 1_000_000} MB ({percent(permille)} of maxmemory)"
        mend = f"{cli(facts)} CONFIG SET maxmemory {limit * 2} (or lower retention.log_keep_mb)"
        if permille > FULL_PERMILLE:
            yield Finding("problem", ABOUT, f"{what}: it soon refuses writes", mend)
        elif permille > TIGHT_PERMILLE:
            yield Finding("warning", ABOUT, what, mend)
    if evicted := int(info.get("evicted_keys", 0)):
        mend = f"{cli(facts)} CONFIG SET maxmemory-policy noeviction"
        yield Finding("problem", ABOUT, f"it dropped {evicted} keys for want of memory", mend)


def clock(facts: Facts) -> Iterator[Finding]:
    """Yield a large offset from this machine's clock: no decision depends on it, but people read times."""
    if facts.clock_off_ms is not None and abs(facts.clock_off_ms) > CLOCK_OFF_MS:
        way = "ahead of" if facts.clock_off_ms > 0 else "behind"
        what = f"its clock is {seconds(abs(facts.clock_off_ms))} {way} this machine's"
        yield Finding("warning", ABOUT, what, "timedatectl set-ntp true (on the machine that is wrong)")


def pace(facts: Facts) -> Iterator[Finding]:
    """Yield a slow round trip, or a slow script of the router."""
    if facts.ping_ms is not None and facts.ping_ms > SLOW_PING_MS:
        what = f"a PING takes {facts.ping_ms:.0f} ms"
        yield Finding("warning", ABOUT, what, f"{cli(facts)} --latency; {cli(facts)} SLOWLOG GET 10")
    if facts.script_p99_ms is not None and facts.script_p99_ms > SLOW_SCRIPT_MS:
        what = f"1 % of all script calls hold it for {facts.script_p99_ms:.1f} ms or more"
        mend = "lower policy.max_bytes and limits.batch_entries, and raise revision, if others share it"
        yield Finding("warning", ABOUT, what, mend)


def cli(facts: Facts) -> str:
    """Return the redis-cli command for this server. Where it has users, those of the grid may not mend
    anything: ADMIN stands for an administrator, who is asked for a password."""
    place = without_user(facts.url)
    return (
        f"redis-cli -u {facts.url}"
        if place == facts.url
        else f"redis-cli --user ADMIN --askpass -u {place}"
    )
