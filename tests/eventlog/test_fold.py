"""The folds and decide() under arbitrary histories, also such as no router would write."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orion_streams.decider.decide import decide
from orion_streams.model import events as ev
from orion_streams.model.policy import NodeRules, Policy
from orion_streams.model.snapshot import decode_grid, encode_grid
from orion_streams.model.state import Grid
from orion_streams.projections import evolve, fold
from tests.grids import under

NODES, REQUESTS, MODELS = ("a", "b", "c"), ("x/1", "x/2", "y/1", "y/2"), ("m:1", "n:1")

nodes, requests, models = st.sampled_from(NODES), st.sampled_from(REQUESTS), st.sampled_from(MODELS)
work_ids = st.integers(1, 12).map(lambda n: f"{n}-0")
small, amounts = st.integers(1, 4), st.integers(0, 10_000)
names = st.sampled_from(("", "node", "request", "ours"))

policies = st.builds(
    Policy,
    temp_return_mc=st.just(70_000),
    max_events=st.integers(1, 8),
    max_attempts=small,
    gone_samples=small,
    return_samples=small,
    attempt_deadline_ms=st.integers(1, 20_000),
    max_bytes=st.integers(1, 5000),
    max_scan=small,
    prefetch=st.integers(0, 1),
    dedupe_keep=small,
)
rules = st.tuples(
    *(
        st.builds(
            NodeRules,
            name=st.just(name),
            inference=st.just(name != "c"),
            slots=st.integers(1, 2),
            temperature_sensor=st.booleans(),
        )
        for name in NODES
    )
)
events = st.one_of(
    st.builds(
        ev.Committed,
        number=st.integers(1, 99),
        server_ms=st.integers(0, 60_000),
        inputs=small,
        decided=st.booleans(),
        hash=st.just(""),
    ),
    st.builds(ev.PolicyChanged, revision=small, policy_id=st.just("p"), policy=policies, nodes=rules),
    st.builds(
        ev.NodeSampled,
        node=nodes,
        boot=st.sampled_from(("b1", "b2")),
        sampled_ms=amounts,
        temp_mc=st.one_of(st.none(), st.sampled_from((50_000, 70_000, 72_000, 75_000, 75_001))),
        ram_used_mb=st.sampled_from((0, 850, 851, 900, 901)),
        ram_total_mb=st.just(1000),
        cpu_permille=st.just(0),
        age_ms=amounts,
        work_read=work_ids,
        in_hand=st.lists(work_ids, max_size=2).map(tuple),
        settled=st.booleans(),
        inventory_known=st.booleans(),
    ),
    st.builds(
        ev.NodeBackedOff, node=nodes, reason=st.sampled_from(("hot", "ram")), value=small, mark=small
    ),
    st.builds(ev.NodeReturned, node=nodes),
    st.builds(ev.ModelInstalled, node=nodes, model=models, digest=names, size_mb=amounts),
    st.builds(ev.ModelRemoved, node=nodes, model=models),
    st.builds(ev.ModelLoaded, node=nodes, model=models, digest=names, size_mb=amounts),
    st.builds(ev.ModelUnloaded, node=nodes, model=models),
    st.builds(ev.InputRejected, stream=names, entry_id=work_ids, code=names),
    st.builds(ev.RequestRejected, request=requests, code=names),
    st.builds(ev.RequestResent, request=requests),
    st.builds(
        ev.RequestAccepted,
        request=requests,
        entry_id=work_ids,
        kind=st.sampled_from(("generate", "embed")),
        model=models,
        deadline_ms=st.integers(1, 30_000),
        body_bytes=amounts,
        prompt_tokens=amounts,
        num_predict=amounts,
        tier=st.integers(0, 2),
        priority=st.integers(-1, 1),
        age_ms=amounts,
    ),
    st.builds(
        ev.RequestRouted,
        request=requests,
        attempt=small,
        node=nodes,
        policy_id=st.just("p"),
        position=amounts,
        verdicts=st.just(()),
        work_id=work_ids,
    ),
    st.builds(ev.RequestDeferred, request=requests, kind=st.sampled_from(("busy", "no_node"))),
    st.builds(ev.RequestStarted, request=requests, attempt=small, work_id=work_ids, age_ms=amounts),
    st.builds(
        ev.AttemptFailed,
        request=requests,
        attempt=small,
        node=nodes,
        work_id=work_ids,
        code=names,
        blame=names,
    ),
    st.builds(
        ev.AttemptEnded, request=requests, attempt=small, node=nodes, work_id=work_ids, outcome=names
    ),
    st.builds(
        ev.AttemptAbandoned,
        request=requests,
        attempt=small,
        node=nodes,
        work_id=work_ids,
        reason=st.sampled_from(("gone", "silent")),
    ),
    st.builds(ev.BodyLost, request=requests),
    st.builds(ev.RepliesTrimmed, client=st.sampled_from(("x", "y")), min_id=work_ids),
    st.builds(
        ev.RequestCompleted,
        request=requests,
        attempt=small,
        node=nodes,
        work_id=work_ids,
        tokens=amounts,
        prompt_tokens=amounts,
        load_ms=amounts,
        prefill_ms=amounts,
        decode_ms=amounts,
        total_ms=amounts,
        cold=st.booleans(),
        alone=st.booleans(),
        reply_id=work_ids,
    ),
    st.builds(ev.RequestFailed, request=requests, code=names, reply_id=work_ids),
    st.builds(ev.RequestExpired, request=requests, reply_id=work_ids),
    st.builds(ev.RequestCancelled, request=requests, reply_id=work_ids),
)
first = st.builds(ev.PolicyChanged, revision=small, policy_id=st.just("p"), policy=policies, nodes=rules)
histories = st.builds(lambda head, tail: [head, *tail], first, st.lists(events, max_size=60))

MANY = settings(max_examples=150, deadline=None)


@MANY
@given(histories, st.lists(events, max_size=20))
def test_a_fold_can_be_cut_anywhere(before: list[ev.AnyEvent], after: list[ev.AnyEvent]) -> None:
    """fold(a + b) equals fold(fold(a), b), byte for byte, also through the grid's own bytes."""
    whole = encode_grid(fold(Grid(), before + after))
    half = fold(Grid(), before)
    assert encode_grid(fold(half, after)) == whole
    assert encode_grid(fold(decode_grid(encode_grid(half)), after)) == whole


@MANY
@given(histories, events)
def test_evolve_leaves_the_grid_alone(before: list[ev.AnyEvent], event: ev.AnyEvent) -> None:
    """The grid that was given is the same afterwards, and the event was counted in the new one."""
    grid = fold(Grid(), before)
    bytes_before = encode_grid(grid)
    after = evolve(grid, event)
    assert encode_grid(grid) == bytes_before
    assert after.position == grid.position + 1


@MANY
@given(histories)
def test_events_survive_their_bytes(before: list[ev.AnyEvent]) -> None:
    """What the log holds of an event is the event."""
    assert [ev.decode(ev.encode(event)) for event in before] == before


@MANY
@given(histories)
def test_decide_leaves_the_grid_alone_and_repeats_itself(before: list[ev.AnyEvent]) -> None:
    """The same grid gives the same answers, at most max_events, also after a round through its bytes."""
    grid = fold(Grid(), before)
    bytes_before = encode_grid(grid)
    answers = decide(grid)
    assert encode_grid(grid) == bytes_before
    assert len(answers) <= grid.policy.max_events
    assert decide(decode_grid(bytes_before)) == answers


@MANY
@given(histories)
def test_decide_reaches_a_fixed_point(before: list[ev.AnyEvent]) -> None:
    """Its own answers folded in, again and again, decide comes to have nothing to add."""
    grid = fold(Grid(), before)
    for _ in range(60):
        answers = decide(grid)
        if not answers:
            break
        grid = fold(grid, answers)
    assert decide(grid) == ()


@MANY
@given(histories)
def test_unfit_nodes_get_nothing(before: list[ev.AnyEvent]) -> None:
    """After any history: nothing goes to a node that is hot, full, stale, silent or without inference."""
    grid = fold(Grid(), before)
    policy = grid.policy
    routed = [e for e in decide(under(grid, policy)) if isinstance(e, ev.RequestRouted)]
    for event in routed:
        node = grid.nodes[event.node]
        assert node.rules.inference
        assert node.heard_ms is not None
        assert grid.at_ms - node.heard_ms <= policy.stale_ms
        assert (node.temp_mc or 0) <= policy.temp_max_mc
        assert node.temp_mc is not None or not node.rules.temperature_sensor
        assert node.ram_used_mb * 1000 <= policy.ram_max_permille * node.ram_total_mb
        model = grid.open[event.request].model
        assert model in node.installed
