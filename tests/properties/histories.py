"""Histories of events, also such as no router would write: all kinds, about few things."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from orion_streams.model import events as ev
from orion_streams.model.policy import ClientRules, ModelRules, NodeRules, Policy
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import Filter
from tests.properties.strategies import pick

NODES, REQUESTS, MODELS = ("a", "b", "c"), ("x/1", "x/2", "y/1"), ("m:1", "n:1")
WORK = tuple(f"{n}-0" for n in range(1, 7))
WORDS = (
    "",
    "stream_cut",
    "ollama_error",
    "ollama_unreachable",
    "agent_leaving",
    "gone",
    "silent",
    "left",
    "drained",
)
SMALL, TIMES, YES_NO = (1, 2, 3), (0, 1, 700, 9_000), (True, False)


def of(event: type[ev.Event], **choices: Any) -> st.SearchStrategy[Any]:
    """Events of one kind."""
    return pick(**choices).map(lambda values: event(**values))


def rules(slots: int, sensor: bool) -> tuple[NodeRules, ...]:
    """Three nodes, one without inference."""
    return tuple(
        NodeRules(name, inference=name != "c", slots=slots, temperature_sensor=sensor) for name in NODES
    )


ABOUT: Any = {"request": REQUESTS, "attempt": SMALL, "node": NODES, "work_id": WORK}
VERDICTS = (
    (),
    (
        Verdict(node="a", cost_ms=9, load_ms=5, decode_ms=4, reserve_mb=300, cached_ms=1),
        Verdict(node="b", filter=Filter.HOT),
    ),
)
CHANGED = of(
    ev.PolicyChanged,
    revision=SMALL,
    policy_id=("p",),
    policy=(
        Policy(),
        Policy(breaker_failures=2, dedupe_keep=1, max_step_ms=500),
        Policy(
            max_events=2, max_attempts=1, gone_samples=1, return_samples=1, attempt_deadline_ms=5_000,
            max_bytes=700, max_scan=1, prefetch=1,
        ),
    ),
    nodes=tuple(rules(slots, sensor) for slots in (1, 3) for sensor in (True, False)),
    models=({}, {"m:1": ModelRules(num_ctx=8_192, prior_tokens=9)}),
)  # fmt: skip
IDEMPOTENT = st.one_of(
    of(ev.NodeBackedOff, node=NODES, reason=("hot", "ram"), value=(1,), mark=(1,)),
    of(ev.NodeReturned, node=NODES),
    of(ev.NodeDrained, node=NODES, by=("x",), for_ms=TIMES, drain_ms=TIMES),
    of(ev.NodeResumed, node=NODES, by=("", "x")),
    of(ev.ZoneChanged, offset_s=(0, 3_600, -19_800)),
    of(ev.DiskOrdered, node=NODES, op=("pull", "remove"), model=MODELS, by=("x",), request=("x/1",),
       work_id=("1-1", "2-1")),
    of(ev.DiskEnded, node=NODES, op=("pull", "remove"), model=MODELS, request=("x/1",),
       work_id=("1-1", "2-1"), code=("", "cancelled")),
    of(ev.ModelInstalled, node=NODES, model=MODELS, digest=("d", "e"), size_mb=TIMES),
    of(ev.ModelRemoved, node=NODES, model=MODELS),
    of(ev.ModelLoaded, node=NODES, model=MODELS, digest=("d", "e"), size_mb=TIMES, context_length=(0, 9)),
    of(ev.ModelUnloaded, node=NODES, model=MODELS),
    of(ev.UnloadOrdered, node=NODES, model=MODELS, reason=("relief", "room")),
    of(ev.LoadEnded, node=NODES, model=MODELS, work_id=WORK, ok=YES_NO, load_ms=TIMES, alone=YES_NO),
    of(ev.BreakerClosed, node=NODES),
    of(ev.RequestDeferred, request=REQUESTS, kind=("busy", "no_node", "quiet", "drained")),
    of(ev.AttemptFailed, **ABOUT, code=WORDS, blame=("node", "request", "ours")),
    of(ev.AttemptEnded, **ABOUT, outcome=WORDS),
    of(ev.AttemptAbandoned, **ABOUT, reason=WORDS),
    of(ev.BodyLost, request=REQUESTS),
    of(ev.RepliesTrimmed, client=("x", "y"), min_id=WORK),
    of(
        ev.RequestCompleted, **ABOUT, tokens=TIMES, prompt_tokens=TIMES, load_ms=TIMES, prefill_ms=TIMES,
        decode_ms=TIMES, total_ms=TIMES, cold=(True, False), alone=(True, False), reply_id=WORK,
    ),
    of(ev.RequestFailed, request=REQUESTS, code=WORDS, reply_id=WORK),
    of(ev.RequestExpired, request=REQUESTS, reply_id=WORK),
    of(ev.RequestCancelled, request=REQUESTS, reply_id=WORK),
    of(ev.RequestStarted, request=REQUESTS, attempt=SMALL, work_id=WORK, age_ms=TIMES),
    of(ev.InputRejected, stream=("s",), entry_id=WORK, code=WORDS),
    of(ev.RequestResent, request=REQUESTS),
    of(ev.ClientAdded, client=("key-a", "key-b"), rules=(ClientRules(), ClientRules(max_open=1))),
    of(ev.ClientRemoved, client=("key-a", "key-b")),
    of(ev.RequestRejected, request=REQUESTS, code=WORDS),
)  # fmt: skip
"""Events that may come twice."""
ACCEPTED = of(
    ev.RequestAccepted, request=REQUESTS, entry_id=WORK, kind=("generate", "embed"), model=MODELS,
    deadline_ms=(1, 5_000, 60_000), body_bytes=TIMES, prompt_tokens=TIMES, num_predict=TIMES, tier=(0, 1),
    priority=(0, 1), age_ms=TIMES, num_ctx=(0, 4_096), session=("", "s"),
)  # fmt: skip
ROUTED = of(ev.RequestRouted, **ABOUT, policy_id=("p",), position=(1,), verdicts=VERDICTS)
SAMPLED = of(
    ev.NodeSampled, node=NODES, boot=("b1", "b2"), sampled_ms=TIMES,
    temp_mc=(None, 50_000, 75_000, 75_001, 83_000),
    ram_used_mb=(0, 850, 851, 901), ram_total_mb=(1_000,), cpu_permille=(0,), age_ms=TIMES, work_read=WORK,
    in_hand=((), WORK[:2]), settled=(True, False), inventory_known=(True, True, False),
    leaving=(False, True), goodbye=(False, False, True),
)  # fmt: skip
EVENTS = st.one_of(
    IDEMPOTENT,
    CHANGED,
    ACCEPTED,
    ROUTED,
    SAMPLED,
    of(
        ev.Committed,
        number=SMALL,
        server_ms=(0, 500, 9_000, 3_000_000),
        inputs=(0,),
        decided=(True, False),
        hash=("",),
    ),
    of(
        ev.LoadOrdered,
        node=NODES,
        model=MODELS,
        num_ctx=(4_096,),
        runner=("",),
        load_ms=TIMES,
        reserve_mb=TIMES,
        work_id=WORK,
    ),
    of(ev.BreakerOpened, node=NODES, failures=SMALL, open_ms=TIMES),
)
TAILS = st.lists(EVENTS, max_size=20)
HISTORIES = st.builds(
    lambda first, rest: [first, *rest], CHANGED, st.lists(st.one_of(EVENTS, ACCEPTED, ROUTED), max_size=40)
)
