"""Virtual time passes: a heap of what happens next, the real fold, the real `decide`, simulated machines.

At each moment the inputs are folded in as one commit, then `decide` answers, and what it answers is folded
in and acted upon, as the router and the agents do. Nothing sleeps; a seed gives the same run every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush

import msgspec

from orion_streams.decider.decide import Question, decide
from orion_streams.errors import OrionError
from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.vocabulary import AbandonReason, RequestKind
from orion_streams.projections import apply
from orion_streams.simulation.node_physics import NEVER, Run, VirtualNode
from orion_streams.simulation.simulation_results import Result, ordered, percentile
from orion_streams.simulation.virtual_agents import Reporter
from orion_streams.simulation.virtual_house import House, Loss, along, usual_house
from orion_streams.simulation.workloads import Arrival, Scenario, warmer_mc

DISPATCH_MS = 10
"""Between a decision and its arrival on the node: commit, read, HTTP."""
MAX_ROUNDS = 64
"""So often in a row may `decide` have something to add at one moment."""

_replace = msgspec.structs.replace
_Handler = Callable[[int, object, object], None]


class SimulationError(OrionError):
    """The simulated grid broke a promise: it is the core that is wrong, or the simulator."""


class Engine(Reporter):
    """One run. `questions`: what the policy asks; `all_warm`: the lower bound's physics; `house`: the
    machines and rules, those of the scene unless others are given."""

    def __init__(
        self,
        scene: Scenario,
        trace: Iterator[Arrival],
        questions: Sequence[Question],
        *,
        all_warm: bool = False,
        health_ms: int = 2_000,
        progress: Callable[[int], None] | None = None,
        house: House | None = None,
    ) -> None:
        self.scene, self.trace, self.questions = scene, trace, questions
        self.house = house = house or usual_house(scene, health_ms)
        super().__init__(all_warm, progress, house.taught.copy())
        self.health_ms = health_ms
        self.nodes = {
            spec.name: VirtualNode(
                spec, house.limit_mb[spec.name], house.models[spec.name], self, all_warm,
                house.paces.get(spec.name),
            )
            for spec in scene.nodes
        }  # fmt: skip
        for name, node in self.nodes.items():
            node.fifo = scene.fifo
            node.thermals.temp_mc = float(house.temp_mc.get(name, node.thermals.temp_mc))
        self.boots = dict.fromkeys(self.nodes, 1)
        self.lost: dict[str, list[str]] = {}
        self.heap: list[tuple[int, int, _Handler, object, object]] = []
        self.sequence = self.work_number = self.commits = self.now = 0
        self.coming, self.ticked = True, False
        self.ended: Counter[str] = Counter()
        self.obey(house.rules[0][1].policy)

    # time

    def run(self) -> None:
        """Until every request has its answer."""
        self.begin()
        heap = self.heap
        while self.coming or self.grid.open:
            now, _, handler, what, more = heappop(heap)
            self.now = now
            handler(now, what, more)
            while heap and heap[0][0] == now:
                _, _, handler, what, more = heappop(heap)
                handler(now, what, more)
            if self.inputs or self.ticked:
                self.commit(now)
        for node in self.nodes.values():
            node.advance(self.now)

    def begin(self) -> None:
        """The first commit: the rules, the machines, what they have on disk and in memory."""
        house = self.house
        self.inputs.append(house.rules[0][1])
        for at_ms, rules in house.rules[1:]:
            self.at(at_ms, self.on_rules, rules)
        for name, node in self.nodes.items():
            for model in node.models.values():
                self.inputs.append(ev.ModelInstalled(name, model.name, model.digest, model.size_mb))
                if self.all_warm:
                    self.model_loaded(node, model)
            for each in house.resident.get(name, ()):
                node.resident[each] = 0
                self.model_loaded(node, node.models[each])
        for loss in house.losses:
            if loss.from_ms:
                self.at(loss.from_ms, self.on_loss, loss)
            else:
                self.on_loss(0, loss, None)
        self.on_tick(0, None, None)
        self.commit(0)
        self.next_arrival()

    def at(self, when_ms: int, handler: _Handler, what: object, more: object = None) -> None:
        """Something is to happen."""
        self.sequence += 1
        heappush(self.heap, (when_ms, self.sequence, handler, what, more))

    def schedule(self, node: VirtualNode) -> None:
        """When the machine has to be looked at next; earlier appointments no longer hold."""
        due_ms = node.next_due()
        if due_ms != NEVER:
            self.at(due_ms, self.on_due, node, node.version)

    def obey(self, policy: Policy) -> None:
        """These rules hold from now on."""
        self.policy = policy
        for node in self.nodes.values():
            node.advance(self.now)
            node.thermals.mark_mc = policy.temp_max_mc

    # what happens

    def on_rules(self, now: int, what: object, more: object) -> None:
        """New rules come into force."""
        assert isinstance(what, ev.PolicyChanged)  # noqa: S101 - see on_arrival
        self.inputs.append(what)
        self.obey(what.policy)

    def next_arrival(self) -> None:
        """Look at the trace's next line."""
        arrival = next(self.trace, None)
        if arrival is None:
            self.coming = False
        else:
            self.at(arrival.at_ms, self.on_arrival, arrival)

    def on_arrival(self, now: int, what: object, more: object) -> None:
        """Somebody asks."""
        assert isinstance(what, Arrival)  # noqa: S101 - the heap holds whatever a handler takes
        self.sequence += 1
        key = f"brain/{self.sequence}"
        self.asked[key] = what
        self.inputs.append(
            ev.RequestAccepted(
                request=key,
                entry_id="0-1",
                kind=RequestKind(what.kind),
                model=what.model,
                deadline_ms=what.deadline_ms,
                body_bytes=1,
                prompt_tokens=what.prompt_tokens,
                num_predict=what.num_predict,
                tier=what.tier,
                priority=what.priority,
                session=what.session,
                num_ctx=what.num_ctx,
                runner=what.runner,
            )
        )
        if what.cancel_ms:
            self.at(now + what.cancel_ms, self.on_withdrawn, key)
        self.next_arrival()

    def on_withdrawn(self, now: int, what: object, more: object) -> None:
        """Its client no longer wants it, if it has no answer yet."""
        key = str(what)
        if key in self.asked:
            self.call_back(now, key)
            del self.asked[key]
            self.ended["cancelled"] += 1
            self.inputs.append(ev.RequestCancelled(key))

    def on_tick(self, now: int, what: object, more: object) -> None:
        """Every machine that lives shows how it is."""
        warmer_by_mc = warmer_mc(self.scene, now)
        for name, node in self.nodes.items():
            node.advance(now)
            course = self.house.ambient.get(name)
            usual_mc = node.spec.ambient_mc + warmer_by_mc
            node.thermals.ambient_mc = along(course, now) if course else usual_mc
            if node.is_slowed:
                node.version += 1
                self.schedule(node)
            if name not in self.lost:
                self.inputs.append(self.sample(node, now))
        self.ticked = True
        self.at(now + self.health_ms, self.on_tick, None)

    def on_due(self, now: int, what: object, more: object) -> None:
        """Something on the machine ends, if nothing changed since that was computed."""
        assert isinstance(what, VirtualNode)  # noqa: S101 - see on_arrival
        if what.version == more:
            what.due(now)
            self.schedule(what)

    def on_work(self, now: int, what: object, more: object) -> None:
        """An attempt or an ordered load arrives on its machine."""
        assert isinstance(what, VirtualNode) and isinstance(more, Run | ev.LoadOrdered)  # noqa: S101
        if what.name in self.lost:
            self.lost[what.name].append(more.work_id)
            return
        if isinstance(more, Run):
            what.hand(more, now)
        else:
            what.order_load(more.work_id, what.models[more.model], now)
        self.schedule(what)

    def on_cancel(self, now: int, what: object, more: object) -> None:
        """The agent stops an attempt, if it still has it."""
        assert isinstance(what, VirtualNode) and isinstance(more, ev.AttemptAbandoned)  # noqa: S101
        if what.name not in self.lost and what.cancel(more.work_id, now):
            self.ended_late(what.name, more.work_id, more.request, more.attempt, "cancelled")
            self.schedule(what)

    def on_unload(self, now: int, what: object, more: object) -> None:
        """An ordered unload arrives, and takes place a little later."""
        assert isinstance(what, VirtualNode) and isinstance(more, ev.UnloadOrdered)  # noqa: S101
        if what.name not in self.lost:
            what.order_unload(more.model)
            self.at(now + what.spec.unload_ms, self.on_unloaded, what, more.model)

    def on_unloaded(self, now: int, what: object, more: object) -> None:
        """The ordered unload takes place."""
        assert isinstance(what, VirtualNode) and isinstance(more, str)  # noqa: S101 - see on_arrival
        what.finish_unload(more, now)
        self.schedule(what)

    def on_loss(self, now: int, what: object, more: object) -> None:
        """A machine falls silent, with whatever it does."""
        assert isinstance(what, Loss)  # noqa: S101 - see on_arrival
        self.lost[what.node] = self.nodes[what.node].fail(now)
        self.at(what.until_ms, self.on_return, what.node)

    def on_return(self, now: int, what: object, more: object) -> None:
        """It is back, empty: its agent reports what it had in hand, under a new boot."""
        node = self.nodes[str(what)]
        node.advance(now)
        self.boots[node.name] += 1
        self.restarted(node, self.lost.pop(node.name))
        self.inputs.append(self.sample(node, now))

    # the router

    def commit(self, now: int) -> None:
        """Fold the inputs, decide, fold and do what was answered."""
        grid, inputs = self.grid, self.inputs
        self.inputs = []
        self.commits += 1
        apply(grid, ev.Committed(self.commits, now, len(inputs), True, ""))
        news, self.ticked = self.ticked, False
        for event in inputs:
            apply(grid, event)
            news = news or type(event) is not ev.RequestStarted
        if not news:  # that what was sent has begun is no question to anybody
            return
        for _ in range(MAX_ROUNDS):
            answers = decide(grid, self.questions)
            for answer in answers:
                self.act(now, answer)
            if len(answers) < self.policy.max_events:  # then it has answered all that it had to say
                return
        raise SimulationError(f"decide has no fixed point at {now} ms")

    def act(self, now: int, answer: ev.AnyEvent) -> None:
        """Fold an answer, and send what follows from it on its way."""
        arrives_ms = now + DISPATCH_MS
        match answer:
            case ev.RequestRouted():
                self.work_number += 1
                answer = _replace(answer, work_id=f"{self.work_number}-0")
                self.at(arrives_ms, self.on_work, self.nodes[answer.node], self.run_of(answer))
            case ev.LoadOrdered():
                self.work_number += 1
                answer = _replace(answer, work_id=f"{self.work_number}-0")
                self.at(arrives_ms, self.on_work, self.nodes[answer.node], answer)
            case ev.AttemptAbandoned():
                self.at(arrives_ms, self.on_cancel, self.nodes[answer.node], answer)
            case ev.UnloadOrdered():
                self.at(arrives_ms, self.on_unload, self.nodes[answer.node], answer)
            case ev.RequestExpired() | ev.RequestFailed():
                self.ended["expired" if isinstance(answer, ev.RequestExpired) else "failed"] += 1
                self.call_back(now, answer.request)
                del self.asked[answer.request]
        apply(self.grid, answer)

    def call_back(self, now: int, key: str) -> None:
        """The request ends without an answer: whoever has it in hand is told to stop."""
        row = self.grid.open[key]
        if row.work_id and row.node in self.nodes:
            ended = ev.AttemptAbandoned(key, row.attempt, row.node, row.work_id, AbandonReason("ended"))
            self.at(now + DISPATCH_MS, self.on_cancel, self.nodes[row.node], ended)

    def run_of(self, routed: ev.RequestRouted) -> Run:
        """The attempt, as its machine gets it."""
        asked = self.asked[routed.request]
        lengths = asked.read_tokens or asked.prompt_tokens, asked.tokens, asked.overhead_ms
        model = self.nodes[routed.node].models[asked.model]
        return Run(routed.work_id, routed.request, model, lengths, asked.session)

    # the outcome

    def result(self, policy: str, seed: int) -> Result:
        """What it came to."""
        answers_ms, scene, rejected = ordered(self.latencies_ms), self.scene, self.ended.total()
        if len(answers_ms) + rejected != scene.requests:
            raise SimulationError(f"{len(answers_ms)} answers and {rejected} refusals to {scene.requests}")
        return Result(
            regime=scene.regime,
            workload=scene.workload,
            policy=policy,
            seed=seed,
            p50_ms=percentile(answers_ms, 50),
            p95_ms=percentile(answers_ms, 95),
            max_ms=answers_ms[-1] if answers_ms else 0,
            cold_loads=sum(node.cold_loads for node in self.nodes.values()),
            hot_ms=round(sum(node.thermals.hot_ms for node in self.nodes.values())),
            rejected=rejected,
        )
