"""The judges of chaos: each check names what is planted, and says nothing of a run without fault."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from orion_streams.demo.observer import Observer, Row, read_row
from tests.chaos import invariants
from tests.chaos.chaos_report import both
from tests.chaos.chaos_run import longest_gap_ms
from tests.chaos.invariants import LogRow

PREFIX = "p:"
REQUEST, WORK, REPLIES = "requests:brain", "work:orion-master", "replies:brain"


def saw(*entries: tuple[str, dict[str, Any]], at_s: float = 1_000.0) -> Observer:
    """An observer that saw these entries, one after the other."""
    observer = Observer(None, PREFIX, ["brain"], ["orion-master", "orion-worker", "orion-edge"])
    for number, (stream, fields) in enumerate(entries, start=1):
        raw = {name.encode(): str(value).encode() for name, value in fields.items()}
        row: Row = read_row(stream, f"{number}-0", raw, at_s)
        observer.rows[stream][f"{number}-0"] = row
        observer._count(row, 1)
    return observer


def asked(name: str = "q1") -> tuple[str, dict[str, Any]]:
    return REQUEST, {"id": name, "model": "m", "prompt": "x"}


def run(attempt: int = 1, node: str = "orion-master", name: str = "q1") -> tuple[str, dict[str, Any]]:
    head = {"op": "run", "request": f"brain/{name}", "attempt": attempt}
    return f"work:{node}", {"head": json.dumps(head)}


def reply(kind: str, name: str = "q1", **fields: Any) -> tuple[str, dict[str, Any]]:
    return REPLIES, {"id": name, "kind": kind, **fields}


def token(text: str, seq: int, attempt: int = 1) -> tuple[str, dict[str, Any]]:
    return reply("token", text=text, seq=seq, attempt=attempt)


def done(text: str = "ab", attempt: int = 1, **fields: Any) -> tuple[str, dict[str, Any]]:
    return reply("done", text=text, attempt=attempt, node="orion-master", **fields)


WHOLE = (asked(), run(), token("a", 1), token("b", 2), done())
AGAIN = (
    asked(),
    run(),
    token("a", 1),
    run(2),
    reply("restarted", attempt=2),
    token("ab", 1, 2),
    done("ab", 2),
)
Check = Callable[[Observer], list[str]]
CHECKS: dict[str, Check] = {
    "lost": lambda observer: invariants.lost(observer, set(), []),
    "duplicate_replies": invariants.duplicate_replies,
    "duplicate_dispatches": invariants.duplicate_dispatches,
    "stale_answers": invariants.stale_answers,
    "glued_halves": invariants.glued_halves,
    "unrefused_poison": lambda observer: invariants.unrefused_poison(observer, 0),
    "expired_by_a_jump": invariants.expired_by_a_jump,
    "robot_worked": invariants.robot_worked,
}
PLANTED = {
    "lost": (asked(), run(), token("a", 1)),
    "duplicate_replies": (*WHOLE, done()),
    "duplicate_dispatches": (asked(), run(), run(), done("")),
    "stale_answers": (asked(), run(), run(2), done("", 1)),
    "glued_halves": (asked(), run(), token("b", 2), token("a", 1), done()),
    "unrefused_poison": (asked(), reply("rejected"), reply("rejected")),
    "expired_by_a_jump": (asked(), reply("expired")),
    "robot_worked": (asked(), run(node="orion-edge"), done("")),
}


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_finds_what_is_planted(name: str) -> None:
    """A stream that breaks a promise is named by its check, and a good one is not."""
    assert CHECKS[name](saw(*PLANTED[name]))
    assert not CHECKS[name](saw(*WHOLE))
    assert not CHECKS[name](saw(*AGAIN))


@pytest.mark.parametrize(
    "rows",
    [(asked(), asked(), reply("rejected"), reply("rejected")), (reply("rejected"), reply("rejected"))],
    ids=["sent again", "an operator's order"],
)
def test_what_is_sent_again_may_be_refused_again(rows: tuple[Any, ...]) -> None:
    """Its client was cut off before it heard the first refusal. The control: one refusal too few."""
    assert not CHECKS["unrefused_poison"](saw(*rows))
    assert invariants.unrefused_poison(saw(*rows), 3)


@pytest.mark.parametrize(
    "tokens",
    [
        (token("a", 1), token("a", 1)),
        (token("a", 1), token("b", 3)),
        (token("a", 1), token("b", 2, attempt=2)),
        (token("x", 1),),
    ],
    ids=["twice", "a gap", "two attempts", "not the answer"],
)
def test_tokens_that_do_not_make_the_answer_are_found(tokens: tuple[Any, ...]) -> None:
    """Twice, with a gap, of two attempts, or of another answer."""
    assert invariants.glued_halves(saw(asked(), run(), *tokens, done()))


def test_what_its_client_was_told_is_not_lost() -> None:
    """A server may lose a reply that was read: the client has it."""
    observer = saw(asked("q1"), asked("q2"))
    assert invariants.lost(observer, {("brain", "q1")}, ["q3 gave up"]) == ["brain/q2", "q3 gave up"]


def test_runs_beyond_the_first_are_counted() -> None:
    """What crashes cost is a figure, no broken promise."""
    assert invariants.repeated_generations(saw(*AGAIN)) == 1
    assert invariants.repeated_generations(saw(*WHOLE)) == 0


def test_answers_that_differ_are_found() -> None:
    """The same prompt has one answer; a second one was cut short."""
    whole = {("m", "p"): Counter({"abc": 5})}
    assert invariants.half_answers(whole) == []
    assert invariants.half_answers({**whole, ("m", "q"): Counter({"abc": 5, "ab": 1})}) != []


def logged(*events: dict[str, Any]) -> list[LogRow]:
    """A log with a good hash in each head."""
    rows, digest = [], bytes(16)
    for position, event in enumerate(events, start=1):
        hashed = {**event, "hash": digest.hex()} if event["event"] == "committed" else event
        raw = json.dumps(hashed).encode()
        digest = hashlib.blake2b(digest + raw, digest_size=16).digest()
        rows.append(LogRow(position, raw, hashed))
    return rows


def sampled(temp_mc: int) -> dict[str, Any]:
    return {"event": "node.sampled", "node": "n", "temp_mc": temp_mc}


HEAD = {"event": "committed"}
RULES = {"event": "policy.changed", "policy": {"return_samples": 2, "temp_return_mc": 70_000}}
HOT = {"event": "node.backed_off", "node": "n", "reason": "hot"}
ROUTED = {"event": "request.routed", "node": "n", "request": "brain/q1"}
BACK = {"event": "node.returned", "node": "n"}


def test_gaps_and_changed_lines_of_the_log_are_found() -> None:
    """A position that is missing, and a line that is not what its commit says."""
    rows = logged(HEAD, RULES, HEAD, HOT, HEAD)
    assert invariants.log_gaps(rows) == []
    assert invariants.log_gaps(rows[:1] + rows[2:]) != []
    changed = LogRow(2, rows[1].raw + b" ", rows[1].event)
    assert invariants.log_gaps([rows[0], changed, *rows[2:]]) != []


def test_work_for_a_hot_node_and_its_early_return_are_found() -> None:
    """Nothing for it until it was cool for enough samples in a row."""
    good = logged(RULES, HOT, sampled(69_000), sampled(69_000), BACK, ROUTED)
    assert invariants.worked_while_backed_off(good) == []
    assert invariants.worked_while_backed_off(logged(RULES, HOT, ROUTED)) == ["brain/q1 to n at 3"]
    early = logged(RULES, HOT, sampled(69_000), sampled(71_000), sampled(69_000), BACK)
    assert invariants.worked_while_backed_off(early) == ["n returned at 6"]


ORDERED = {"event": "disk.ordered", "node": "orion-master", "request": "brain/p1"}
ENDED = {**ORDERED, "event": "disk.ended"}
SECOND = {**ORDERED, "request": "brain/p2"}
SECOND_ENDED, ELSEWHERE = {**SECOND, "event": "disk.ended"}, {**SECOND, "node": "orion-worker"}


@pytest.mark.parametrize(
    ("events", "told", "found"),
    [
        ((ORDERED, ENDED), ("noted",), []),
        ((ORDERED, ENDED, SECOND, SECOND_ENDED), ("noted",), ["brain/p2: 0 of 1 ends told"]),
        ((ORDERED, ENDED), (), ["brain/p1: 0 of 1 ends told"]),
        ((ORDERED, ENDED), ("error", "error"), ["brain/p1: 2 of 1 ends told"]),
        ((ORDERED, ENDED, ORDERED, ENDED), ("error", "noted"), []),
        ((ORDERED,), ("progress",), ["brain/p1 on orion-master has no end"]),
        ((ENDED,), (), ["brain/p1 ended on orion-master without having begun"]),
        ((SECOND, ORDERED, ENDED), ("noted",), ["brain/p1 on orion-master during brain/p2"]),
        ((ELSEWHERE, ORDERED, ENDED), ("noted",), ["brain/p2 on orion-worker has no end"]),
    ],
)  # fmt: skip
def test_pulls_that_overlap_or_have_no_end_are_found(
    events: tuple[dict[str, Any], ...], told: tuple[str, ...], found: list[str]
) -> None:
    """One at a time a node, each with one end, which is told once."""
    observer = saw(*(reply(kind, "p1") for kind in told))
    assert invariants.disk_orders(logged(*events), observer)[: len(found) or None] == found


def test_figures() -> None:
    """Percentiles by the nearest rank, and the longest time without an answer, from beginning to end."""
    assert (both([]), both([5, 1, 3])) == ((None, None), (3, 5))
    assert longest_gap_ms([1.0, 2.0, 9.0], 0.0, 5.0) == 3_000
