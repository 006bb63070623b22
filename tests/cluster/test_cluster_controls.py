"""Negative controls: with a guard taken out, the simulation under faults names the invariant that breaks.

What no run notices stands elsewhere: the token alone and the position alone matter to a process that
sleeps through the loss of a tail, or to a log that is lost by itself
(tests/eventlog/test_commit_controls.py); here everybody finds his connection broken, and everything is
lost together. Nor does any run need `gone_samples` beyond one, or the wait for settled results: agents
list work until its result is written, and the router reads results before health. These two are a second
line of defence. So are an agent that tells an end once more (tests/agents/test_lost_tail.py) and a client
that looks whether its last reply still stands (tests/contract/test_client_failover.py): a router that
lives on gives out no id twice. A router whose grid is older than its guard would trim bodies that are
needed; since a log is read again when it changed under the reader, no run needs the second look.
"""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from orion_streams import projections
from orion_streams.agents import router as router_module
from orion_streams.agents.retention import Retention
from orion_streams.agents.router import Router
from orion_streams.agents.worker_core import WorkerCore
from orion_streams.config import Config
from orion_streams.decider import decide
from orion_streams.eventlog.memory_log import MemoryLog
from orion_streams.model import policy
from orion_streams.protocol import admission, commit_builder, ingest
from tests.cluster import cluster_grid, cluster_house
from tests.cluster.cluster_agents import Agent
from tests.cluster.removing import breaks, broken, without
from tests.cluster.world_clock import World

pytestmark = pytest.mark.everything  # the quick run has controls on real servers
Patch = pytest.MonkeyPatch
NUMBER_AND_TOKEN = 'if (number, held.get("token", "")) != (expected.number, expected.token):'
POSITION = "if last != expected.position:"
FENCE = "if request is None or request.work_id != head.work_id or request.node != entry.owner:"
CALM = "node.calm_samples >= policy.return_samples"


def with_limits(monkeypatch: Patch, table: str, **limits: int) -> None:
    """Simulate houses with other limits."""

    def changed(world: World) -> Config:
        usual = cluster_house.configuration(world)
        return replace(usual, **{table: replace(getattr(usual, table), **limits)})

    monkeypatch.setattr(cluster_grid, "configuration", changed)


def with_safety(monkeypatch: Patch, part: str, instead: str) -> None:
    """Ask another question about safety."""
    asked = decide.safety
    without(monkeypatch, decide, "safety", part, instead)
    questions = tuple(decide.safety if each is asked else each for each in decide.QUESTIONS)
    assert questions != decide.QUESTIONS
    monkeypatch.setattr(decide, "QUESTIONS", questions)


def test_with_all_guards_the_same_runs_hold() -> None:
    """The runs of these controls break nothing while no guard is missing."""
    for faults in ("two_routers lost_answer", "cut_agent ollama_hang", "trimming kill_router late_resend"):
        assert broken(faults, range(1, 9)) == {}


GUARDS = {
    "number and token: two routers pass tokens on twice": (
        MemoryLog, "commit", NUMBER_AND_TOKEN, "if False:", "two_routers lost_answer", "tokens_in_order",
    ),
    "fence: a node that was cut off answers for the attempt that replaced its own": (
        ingest, "take_result", FENCE, "if request is None:",
        "cut_agent ollama_hang", "answer_of_current_attempt",
    ),
    "cursors: a router that was killed takes again what was taken": (
        MemoryLog, "commit", " | commit.set", "", "kill_router", "inputs_taken_once",
    ),
    "relayed marks: tokens that an agent sends again reach the client again": (
        ingest, "take_result", "if head.seq != relayed.get(head.work_id, 0) + 1:", "if False:",
        "lost_answer duplicate_write", "tokens_in_order",
    ),
    "bodies: a request whose entry was deleted goes to its next node without a prompt": (
        MemoryLog, "_with_body", "if source is None and body.required:", "if False:",
        "deleted_body ollama_error", "run_has_its_prompt",
    ),
    "time: a server's clock that jumps an hour ends requests that had seconds left": (
        projections, "advance", "min(max(step_ms, 0), grid.policy.max_step_ms)", "max(step_ms, 0)",
        "clock_jump", "never_expired_early",
    ),
    "age: so does the age of an entry, by that clock": (
        commit_builder.CommitBuilder, "take", "if age_max_ms is not None:", "if False:",
        "clock_jump", "never_expired_early",
    ),
    "restart: what a former process had runs again": (
        WorkerCore, "catch_up", "if not self.restarted:", "if True:",
        "kill_agent", "no_attempt_runs_twice",
    ),
    "end: a run has none": (
        WorkerCore, "ended", "return self._end(job, outcome)", "return []",
        "kill_agent", "comes_to_rest",
    ),
}  # fmt: skip
"""What happens without a guard; the code that is it, what stands instead, faults, and what breaks."""


@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_its_invariant_breaks(monkeypatch: Patch, guard: str) -> None:
    """Each guard is needed: some run breaks what it keeps."""
    owner, name, part, instead, faults, invariant = GUARDS[guard]
    without(monkeypatch, owner, name, part, instead)
    assert breaks(invariant, faults)


def test_without_any_comparison_the_log_breaks(monkeypatch: Patch) -> None:
    """The compare-and-set: without number, token and position two routers write over each other's grid."""
    without(monkeypatch, MemoryLog, "commit", NUMBER_AND_TOKEN, "if False:", (POSITION, "if False:"))
    assert breaks("log_gapless", "two_routers")


def test_without_known_ids_a_resend_runs_again(monkeypatch: Patch) -> None:
    """Known ids: a request that is sent again is dispatched again."""
    part = "if key in grid.open or grid.find_closed(key) is not None:"
    without(monkeypatch, admission, "admit", part, "if False:")
    found = broken("lost_answer late_resend", range(1, 3))
    assert {"known_ids_start_nothing", "one_dispatch_per_attempt"} <= found.keys()


def test_without_hysteresis_nodes_flap(monkeypatch: Patch) -> None:
    """Hysteresis: a node returns after one sample below the lower mark."""
    with_safety(monkeypatch, CALM, "node.calm_samples >= 1")
    assert breaks("no_flapping", "heat", 1_000)


def test_without_backoff_hot_nodes_get_work(monkeypatch: Patch) -> None:
    """Backoff: a node above its mark is sent work."""
    with_safety(monkeypatch, "for name, node in sorted(grid.nodes.items()):", "for name, node in ():")
    assert breaks("backed_off_never_routed", "heat full_memory", 400)


def test_without_reading_health_first_work_goes_by_old_health(monkeypatch: Patch) -> None:
    """The start: a router with a backlog routes on what nodes were before it. With all guards, and as few
    entries to a commit, it does not."""
    with_limits(monkeypatch, "limits", batch_entries=2)
    assert broken("cut_router kill_router", range(1, 4)) == {}
    part = "while await self.take_backlog():"
    without(monkeypatch, Router, "start", part, "while False:")
    assert breaks("health_is_read_first", "cut_router kill_router")


def test_without_the_cursor_check_a_stream_is_never_read_again(monkeypatch: Patch) -> None:
    """Cursors beyond the end: after a deleted stream and a clock that was put back, nobody reads it."""

    async def nothing(*arguments: object) -> None:
        """Check nothing."""

    monkeypatch.setattr(router_module, "check_cursors", nothing)
    assert breaks("comes_to_rest", "deleted_stream clock_jump")


TRIMS = {
    "requests": (
        "trim_requests", "if key.startswith(owner)]", "if False]",
        "trimming ollama_error", "bodies_are_kept",
    ),
    "replies": (
        "trim_replies", "needed = [row.reply_id for row in grid.closed.get(client, {}).values()]",
        "needed = []", "trimming late_resend", "known_replies_stand",
    ),
    "log": (
        "trim_log", "min(wanted, floor)", "grid.position",
        "trimming kill_router", "routers_start",
    ),
    "work": (
        "trim_work",
        "min([node.work_read, *node.assignments], key=parse_stream_id)",
        "f'{grid.server_ms}-0'",
        "trimming kill_agent", "comes_to_rest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("stream", TRIMS)
def test_trimming_what_is_needed_is_noticed(monkeypatch: Patch, stream: str) -> None:
    """Trimming: open bodies, remembered replies, the log above its snapshots and unread work are needed."""
    name, part, instead, faults, invariant = TRIMS[stream]
    with_limits(monkeypatch, "retention", replies_entries=60)
    without(monkeypatch, Retention, name, part, instead)
    assert breaks(invariant, faults, 300)


def test_without_trimming_streams_grow(monkeypatch: Patch) -> None:
    """Bounds: a router that keeps no house lets its streams grow."""

    async def nothing(*arguments: object) -> None:
        """Trim nothing."""

    monkeypatch.setattr(Retention, "keep", nothing)
    assert breaks("streams_are_bounded", "trimming", 2_000)


def test_without_its_filters_the_robot_gets_work(monkeypatch: Patch) -> None:
    """The robot: its name keeps it from work, whatever its configuration says; else it gets some."""

    def changed(world: World) -> Config:
        usual = cluster_house.configuration(world)
        robot = replace(usual.nodes[cluster_house.EDGE], inference=True)
        return replace(usual, nodes={**usual.nodes, cluster_house.EDGE: robot})

    monkeypatch.setattr(cluster_grid, "configuration", changed)
    assert broken("", range(1, 3)) == {}
    monkeypatch.setattr(policy.NodeRules, "takes_inference", property(lambda rules: rules.inference))
    assert breaks("robot_never", "")


def test_an_agent_that_forgets_what_it_reported_runs_it(monkeypatch: Patch) -> None:
    """After a restart and a cut: what was reported as restarted comes once more, and must not begin. Here
    each process finds its line cut when it would acknowledge what its first read made it report."""
    read, reads = Agent._read, Counter[tuple[str, int]]()

    def cut_once(self: Agent) -> None:
        reads[self.name, self.boots] += 1
        if reads[self.name, self.boots] == 2:
            self._on_work(None, 0, set())
        else:
            read(self)

    monkeypatch.setattr(Agent, "_read", cut_once)
    assert broken("kill_agent", range(1, 4)) == {}
    without(monkeypatch, WorkerCore, "catch_up", "self._remember(work_id, raw)", "pass")
    assert breaks("no_attempt_runs_twice", "kill_agent")
