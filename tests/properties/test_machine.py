"""Everything at random: a router and its machines under whatever comes, with all laws after each step."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from orion_streams.decider.decide import QUESTIONS, Question, decide
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.model.snapshot import decode_grid, encode_grid
from tests.grids import BIG, HEAVY, MODEL, POLICY, TWIN
from tests.properties import strategies as make
from tests.properties.laws import attempts
from tests.properties.world import EDGE, MASTER, RULES, WORKER, World

NODES = st.sampled_from([WORKER, MASTER])
ANY_NODE = st.sampled_from([WORKER, MASTER, EDGE])
MODELS = st.sampled_from([MODEL, HEAVY, TWIN, BIG])
NUMBER = st.integers(0, 3)
POLICIES: list[tuple[Policy, tuple[NodeRules, ...], dict[str, ModelRules]]] = [
    (POLICY, RULES, {}),
    (Policy(spill_forbidden=(2,), max_events=3), RULES, {}),
    (POLICY, (RULES[0], replace(RULES[1], slots=2), replace(RULES[2], inference=False)), {}),
    (POLICY, tuple(replace(each, inference=True) for each in RULES), {}),
    (POLICY, RULES[1:2], {}),
    (POLICY, (*RULES[:2], replace(RULES[2], quiet="07:30-08:02")), {}),
    (POLICY, tuple(replace(each, quiet="08:01-07:00") for each in RULES), {}),
    (POLICY, RULES, {HEAVY: ModelRules(num_ctx=8_192, num_thread=2, resident_on=(WORKER,))}),
]


MOST_SLOTS = max(node.slots for _, rules, _ in POLICIES for node in rules)
DRAIN_MS = 20_000
"""What runs on a drained node has so long to end."""
PATIENCE_MS = 400_000
"""Longer than any breaker rests."""


class House(RuleBasedStateMachine):
    """Clients, agents, faults and the clock take turns; the router answers after each."""

    world: World

    questions: tuple[Question, ...] = QUESTIONS

    @initialize()
    def begin(self) -> None:
        """A house that is up."""
        self.world = World(questions=self.questions)
        self.asked = 0
        self.world.beat()
        self.world.settle()

    @rule(
        model=MODELS,
        client=st.sampled_from(["brain", "gateway"]),
        tier=st.integers(0, 2),
        priority=st.integers(0, 1),
        session=st.sampled_from(["", "s"]),
        num_ctx=st.sampled_from([0, 0, 8_192, 100_000]),
        deadline_ms=st.sampled_from([0, 0, 3_000, 60_000]),
    )
    def ask(self, model: str, client: str, num_ctx: int, **fields: object) -> None:
        """Somebody asks."""
        self.asked += 1
        options = {"num_ctx": num_ctx} if num_ctx else None
        self.world.ask(f"q{self.asked}", model, client, options, **fields)
        self.world.settle()

    @rule(which=NUMBER, again=st.booleans())
    def cancel(self, which: int, again: bool) -> None:
        """Somebody cancels a request, or sends it once more."""
        keys = list(self.world.grid.open)
        if keys:
            key = keys[which % len(keys)]
            client, _, name = key.partition("/")
            if again:
                self.world.ask(name, MODEL, client)
            else:
                self.world.cancel(key)
            self.world.settle()

    @rule(passed_ms=st.sampled_from([10, 900, 2_000]))
    def beat(self, passed_ms: int) -> None:
        """All that live are heard."""
        self.world.beat()
        self.world.settle(passed_ms)

    @rule(
        name=ANY_NODE,
        temp_mc=st.sampled_from([50_000, 50_000, 70_000, 75_000, 75_001, 85_001, None]),
        beats=st.integers(1, 4),
    )
    def warm_up(self, name: str, temp_mc: int | None, beats: int) -> None:
        """A machine is as hot as this, for some samples."""
        self.world.machines[name].temp_mc = temp_mc
        for _ in range(beats):
            self.world.beat(name)
            self.world.settle(1_000)

    @rule(name=ANY_NODE, permille=st.sampled_from([150, 150, 400, 850, 901]), beats=st.integers(1, 4))
    def fill(self, name: str, permille: int, beats: int) -> None:
        """Something else takes memory."""
        machine = self.world.machines[name]
        machine.other_mb = machine.ram_total_mb * permille // 1000
        for _ in range(beats):
            self.world.beat(name)
            self.world.settle(1_000)

    @rule(name=NODES, alive=st.booleans())
    def fall_silent(self, name: str, alive: bool) -> None:
        """A machine falls silent, or is back."""
        self.world.machines[name].alive = alive
        self.world.beat()
        self.world.settle(1_900)

    @rule(name=NODES)
    def read_work(self, name: str) -> None:
        """An agent takes its work and begins all of it."""
        self.world.read_work(name)
        for work_id in list(self.world.machines[name].in_hand):
            self.world.begin(name, work_id)
        self.world.settle()

    @rule(name=NODES, which=NUMBER, values=st.sampled_from([
        {},
        {},
        {"op": "failed", "code": "stream_cut", "blame": "node"},
        {"op": "failed", "code": "ollama_error", "blame": "node"},
        {"op": "failed", "code": "bad_option", "blame": "request"},
        {"op": "failed", "code": "ollama_unreachable", "blame": "node"},
    ]))  # fmt: skip
    def end(self, name: str, which: int, values: dict[str, str]) -> None:
        """A run or load ends, well or not."""
        if not self.world.machines[name].in_hand:
            self.read_work(name)
        in_hand = list(self.world.machines[name].in_hand)
        if in_hand:
            self.world.end(name, in_hand[which % len(in_hand)], **values)  # type: ignore[arg-type]
            self.world.settle()

    @rule(name=NODES, which=NUMBER)
    def repeat(self, name: str, which: int) -> None:
        """An agent sends a result again, late."""
        said = self.world.machines[name].said
        if said:
            self.world.say(name, said[-1 - which % len(said)])
            self.world.settle()

    @rule(name=NODES)
    def restart(self, name: str) -> None:
        """An agent restarts: what it had in hand is reported failed."""
        machine = self.world.machines[name]
        machine.boot += 1
        self.world.read_work(name)
        for work_id in list(machine.in_hand):
            self.world.end(name, work_id, "failed", code="agent_restarted", blame="node")
        self.world.beat(name)
        self.world.settle()

    @rule(name=NODES, reads_all=st.booleans())
    def leave(self, name: str, reads_all: bool) -> None:
        """An agent leaves: it hands back what it has and says goodbye, maybe before it has read all; the
        next one is not there yet."""
        machine = self.world.machines[name]
        machine.alive = machine.leaving = True
        self.world.beat(name)
        self.world.settle()
        if reads_all:
            self.world.read_work(name)
        for work_id in list(machine.in_hand):
            self.world.end(name, work_id, "failed", code="agent_leaving", blame="ours")
        machine.goodbye = True
        self.world.beat(name)
        self.world.settle()
        machine.alive = machine.leaving = machine.goodbye = False
        machine.boot += 1

    @rule(name=NODES, for_ms=st.sampled_from([0, 0, 1_000, 60_000]))
    def drain(self, name: str, for_ms: int) -> None:
        """An operator lets a machine rest, for a time or for good."""
        self.world.rest(name, for_ms)
        self.world.settle()

    @rule(name=NODES)
    def resume(self, name: str) -> None:
        """An operator lets a machine go on."""
        self.world.resume(name)
        self.world.settle()

    @rule(name=NODES, model=MODELS, what=st.sampled_from(["forget", "crash", "remove", "install"]))
    def lose(self, name: str, model: str, what: str) -> None:
        """An agent loses its work, Ollama a runner; a model comes or goes."""
        machine = self.world.machines[name]
        match what:
            case "forget":
                machine.read_work()
                machine.in_hand.clear()
            case "crash":
                machine.resident.clear()
            case "remove":
                machine.installed.pop(model, None)
            case _:
                fresh = World().machines[MASTER].installed[model]
                machine.installed[model] = fresh
        self.world.beat(name)
        self.world.settle()

    @rule(passed_ms=st.sampled_from([-3_600_000, 5_100, 31_000, 3_600_000]))
    def jump(self, passed_ms: int) -> None:
        """The server's clock jumps."""
        self.world.settle(passed_ms)

    @rule()
    def wait(self) -> None:
        """Half a minute passes, with health."""
        for _ in range(15):
            self.world.beat()
            self.world.settle(2_000)

    @rule(which=st.integers(0, len(POLICIES) - 1))
    def change(self, which: int) -> None:
        """New rules."""
        self.world.change(*POLICIES[which])
        self.world.settle()

    @invariant()
    def one_end(self) -> None:
        """Every accepted request has at most one terminal event and one terminal reply."""
        if not hasattr(self, "world"):
            return
        assert set(self.world.ended.values()) <= {1}
        assert {key: len(kinds) for key, kinds in self.world.replies.items()} == self.world.ended
        assert not self.world.ended.keys() & self.world.grid.open.keys()

    @invariant()
    def one_attempt(self) -> None:
        """No attempt is on two nodes, and who runs holds a slot where it is."""
        if not hasattr(self, "world"):
            return
        grid = self.world.grid
        assert len(attempts(grid)) == len(set(attempts(grid)))
        current = Counter(request.node for request in grid.open.values() if request.work_id)
        for request in grid.open.values():
            if request.work_id:
                assert request.work_id in grid.nodes[request.node].assignments
        assert all(number <= MOST_SLOTS for number in current.values())

    @invariant()
    def behind_the_marks(self) -> None:
        """Who was last seen above a mark is out."""
        for node in self.world.grid.nodes.values() if hasattr(self, "world") else ():
            assert (node.temp_mc or 0) <= 75_000 or "hot" in node.backed_off
            assert node.ram_used_mb * 10 <= node.ram_total_mb * 9 or "ram" in node.backed_off

    @invariant()
    def in_good_hands(self) -> None:
        """No open request is past its deadline, or with a node that is silent, has left, is far too hot,
        out before it began, or drained for longer than a run may take to end."""
        if not hasattr(self, "world"):
            return
        grid = self.world.grid
        for request in grid.open.values():
            assert grid.at_ms <= request.deadline_ms
            if request.work_id:
                node = grid.nodes[request.node]
                assert node.heard_ms is not None
                assert grid.at_ms - node.heard_ms <= 5_000
                assert (node.temp_mc or 0) <= 85_000
                assert request.started or not node.backed_off
                assert not node.left, "its agent has left"
                if node.rest is not None:
                    assert request.started, "it waits at a drained node"
                    assert grid.at_ms - node.rest.since_ms < DRAIN_MS

    @invariant()
    def same_bytes(self) -> None:
        """The grid survives its bytes, and says the same afterwards."""
        if not hasattr(self, "world"):
            return
        raw = encode_grid(self.world.grid)
        again = decode_grid(raw)
        assert encode_grid(again) == raw
        for grid in (again, self.world.grid):
            assert decide(grid, self.questions) == ()

    def teardown(self) -> None:
        """Once all is well again, everybody who has time left gets an answer, however long the queue."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.change(*POLICIES[0])
        for name in world.machines:
            world.resume(name)
        for machine in world.machines.values():
            machine.alive, machine.temp_mc, machine.other_mb = True, 50_000, 1_500
        at_ms, rows = world.grid.at_ms, world.grid.open.items()
        in_time = [key for key, request in rows if request.deadline_ms - at_ms > PATIENCE_MS]
        while world.grid.open and world.grid.at_ms - at_ms < PATIENCE_MS:
            world.work_all(1_900)
        assert not [key for key in in_time if key in world.grid.open or world.replies[key] == ["expired"]]


TestHouse = House.TestCase
TestHouse.settings = settings(make.laws(150), stateful_step_count=50)
