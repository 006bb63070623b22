"""Simulate a grid in virtual time: a heap of future calls, the real fold and `decide`, simulated machines.

At each moment the inputs are folded as one commit, then `decide` is called, and its decisions are folded
and carried out, as the router and the agents do. Nothing sleeps; a seed gives the same run every time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any

import msgspec

from orion_streams.decider.decide import Question, decide
from orion_streams.errors import OrionError
from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.vocabulary import AbandonReason, RequestKind
from orion_streams.projections import apply
from orion_streams.simulation.node_physics import NEVER, Run, VirtualNode
from orion_streams.simulation.simulation_results import Result, percentiles
from orion_streams.simulation.virtual_agents import Reporter
from orion_streams.simulation.virtual_house import House, Loss, along
from orion_streams.simulation.workloads import Arrival, Scenario, warmer_mc

DISPATCH_MS = 10
"""Time from a decision to its arrival on the node: commit, read, HTTP."""
MAX_ROUNDS = 64
"""Most calls of `decide` at one moment."""

_replace = msgspec.structs.replace
_Handler = Callable[..., None]
"""Called with the virtual time and its arguments."""


class SimulationError(OrionError):
    """The simulated grid broke an invariant: a bug of the core or of the simulator."""


class Engine(Reporter):
    """One run of a trace in a house. `questions`: those of the policy; `all_warm`: see VirtualNode;
    `progress` gets the number of answers, every 1,000."""

    def __init__(
        self,
        scene: Scenario,
        trace: Iterator[Arrival],
        questions: Sequence[Question],
        house: House,
        *,
        all_warm: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(all_warm, progress, house.taught.copy())
        self.scene, self.trace, self.questions, self.house = scene, trace, questions, house
        self.nodes = {
            name: VirtualNode(setup, self, all_warm=all_warm, fifo=scene.fifo)
            for name, setup in house.nodes.items()
        }
        self.boots = dict.fromkeys(self.nodes, 1)
        self.lost: dict[str, list[str]] = {}
        self.heap: list[tuple[int, int, _Handler, tuple[Any, ...]]] = []
        self.sequence = self.work_number = self.commits = self.now = 0
        self.coming, self.ticked = True, False
        self.ended: Counter[str] = Counter()
        self.obey(house.rules[0][1].policy)

    # time

    def run(self) -> None:
        """Run until every request has ended."""
        self.begin()
        heap = self.heap
        while self.coming or self.grid.open:
            now, _, handler, arguments = heappop(heap)
            self.now = now
            handler(now, *arguments)
            while heap and heap[0][0] == now:
                _, _, handler, arguments = heappop(heap)
                handler(now, *arguments)
            if self.inputs or self.ticked:
                self.commit(now)
        for node in self.nodes.values():
            node.advance(self.now)

    def begin(self) -> None:
        """Commit the rules and the models on disk and in memory; schedule what is known to come."""
        house = self.house
        self.inputs.append(house.rules[0][1])
        for at_ms, rules in house.rules[1:]:
            self.at(at_ms, self.on_rules, rules)
        for at_ms, event in house.rests:
            self.at(at_ms, self.on_rest, event)
        for name, node in self.nodes.items():
            for model in node.models.values():
                self.inputs.append(ev.ModelInstalled(name, model.name, model.digest, model.size_mb))
                if self.all_warm:
                    self.model_loaded(node, model)
            for each in node.setup.resident:
                node.resident[each] = 0
                self.model_loaded(node, node.models[each])
        for loss in house.losses:
            if loss.from_ms:
                self.at(loss.from_ms, self.on_loss, loss)
            else:
                self.on_loss(0, loss)
        self.on_tick(0)
        self.commit(0)
        self.next_arrival()

    def at(self, when_ms: int, handler: _Handler, *arguments: object) -> None:
        """Schedule a call."""
        self.sequence += 1
        heappush(self.heap, (when_ms, self.sequence, handler, arguments))

    def schedule(self, node: VirtualNode) -> None:
        """Schedule the next end on a machine; earlier ones no longer hold."""
        due_ms = node.next_due()
        if due_ms != NEVER:
            self.at(due_ms, self.on_due, node, node.version)

    def obey(self, policy: Policy) -> None:
        """Apply a policy from now on."""
        self.policy = policy
        for node in self.nodes.values():
            node.advance(self.now)
            node.thermals.mark_mc = policy.temp_max_mc

    # handlers

    def on_rules(self, now: int, rules: ev.PolicyChanged) -> None:
        """Put new rules into force."""
        self.inputs.append(rules)
        self.obey(rules.policy)

    def on_rest(self, now: int, event: ev.AnyEvent) -> None:
        """Take a drain, its end, or another local time."""
        self.inputs.append(event)

    def next_arrival(self) -> None:
        """Schedule the next request of the trace."""
        arrival = next(self.trace, None)
        if arrival is None:
            self.coming = False
        else:
            self.at(arrival.at_ms, self.on_arrival, arrival)

    def on_arrival(self, now: int, asked: Arrival) -> None:
        """Accept a request."""
        self.sequence += 1
        key = f"brain/{self.sequence}"
        self.asked[key] = asked
        self.inputs.append(
            ev.RequestAccepted(
                request=key,
                entry_id="0-1",
                kind=RequestKind(asked.kind),
                model=asked.model,
                deadline_ms=asked.deadline_ms,
                body_bytes=1,
                prompt_tokens=asked.prompt_tokens,
                num_predict=asked.num_predict,
                tier=asked.tier,
                priority=asked.priority,
                session=asked.session,
                num_ctx=asked.num_ctx,
                runner=asked.runner,
            )
        )
        if asked.cancel_ms:
            self.at(now + asked.cancel_ms, self.on_withdrawn, key)
        self.next_arrival()

    def on_withdrawn(self, now: int, key: str) -> None:
        """Cancel a request that has no answer yet."""
        if key in self.asked:
            self.call_back(now, key)
            del self.asked[key]
            self.ended["cancelled"] += 1
            self.inputs.append(ev.RequestCancelled(key))

    def on_tick(self, now: int) -> None:
        """Sample every machine that is not lost."""
        warmer_by_mc = warmer_mc(self.scene, now)
        for name, node in self.nodes.items():
            node.advance(now)
            course, usual_mc = node.setup.ambient, node.spec.ambient_mc + warmer_by_mc
            node.thermals.ambient_mc = along(course, now) if course else usual_mc
            if node.is_slowed:
                node.version += 1
                self.schedule(node)
            if name not in self.lost:
                self.inputs.append(self.sample(node, now))
        self.ticked = True
        self.at(now + self.house.health_ms, self.on_tick)

    def on_due(self, now: int, node: VirtualNode, version: int) -> None:
        """End what ends on a machine, if nothing changed since that was computed."""
        if node.version == version:
            node.due(now)
            self.schedule(node)

    def on_work(self, now: int, node: VirtualNode, work: Run | ev.LoadOrdered) -> None:
        """Hand an attempt or an ordered load to its machine."""
        if node.name in self.lost:
            self.lost[node.name].append(work.work_id)
            return
        if isinstance(work, Run):
            node.hand(work, now)
        else:
            node.order_load(work.work_id, node.models[work.model], now)
        self.schedule(node)

    def on_cancel(self, now: int, node: VirtualNode, ended: ev.AttemptAbandoned) -> None:
        """Stop an attempt, if its machine still has it."""
        if node.name not in self.lost and node.cancel(ended.work_id, now):
            self.ended_late(node.name, ended.work_id, ended.request, ended.attempt, "cancelled")
            self.schedule(node)

    def on_unload(self, now: int, node: VirtualNode, model: str) -> None:
        """Take an ordered unload, which takes place a little later."""
        if node.name not in self.lost:
            node.order_unload(model)
            self.at(now + node.spec.unload_ms, self.on_unloaded, node, model)

    def on_unloaded(self, now: int, node: VirtualNode, model: str) -> None:
        """Carry out an ordered unload."""
        node.finish_unload(model, now)
        self.schedule(node)

    def on_loss(self, now: int, loss: Loss) -> None:
        """Lose a machine with all that it does."""
        node = self.nodes[loss.node]
        self.lost[node.name] = node.fail(now)
        self.at(loss.until_ms, self.on_return, node)

    def on_return(self, now: int, node: VirtualNode) -> None:
        """Bring a machine back with nothing in memory: its agent reports what it had in hand."""
        node.advance(now)
        self.boots[node.name] += 1
        self.restarted(node, self.lost.pop(node.name))
        self.inputs.append(self.sample(node, now))

    # the router

    def commit(self, now: int) -> None:
        """Fold the inputs, decide, and carry the decisions out."""
        grid, inputs = self.grid, self.inputs
        self.inputs = []
        self.commits += 1
        apply(grid, ev.Committed(self.commits, now, len(inputs), True, ""))
        news, self.ticked = self.ticked, False
        for event in inputs:
            apply(grid, event)
            news = news or type(event) is not ev.RequestStarted
        if not news:  # a start alone changes no decision
            return
        for _ in range(MAX_ROUNDS):
            answers = decide(grid, self.questions)
            for answer in answers:
                self.act(now, answer)
            if len(answers) < self.policy.max_events:  # then it has no more to decide
                return
        raise SimulationError(f"decide has no fixed point at {now} ms")

    def act(self, now: int, answer: ev.AnyEvent) -> None:
        """Fold a decision, and schedule what follows from it."""
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
                self.at(arrives_ms, self.on_unload, self.nodes[answer.node], answer.model)
            case ev.RequestExpired() | ev.RequestFailed():
                self.ended["expired" if isinstance(answer, ev.RequestExpired) else "failed"] += 1
                self.call_back(now, answer.request)
                del self.asked[answer.request]
        apply(self.grid, answer)

    def call_back(self, now: int, key: str) -> None:
        """Stop the attempt of a request that ends without an answer."""
        row = self.grid.open[key]
        if row.work_id and row.node in self.nodes:
            ended = ev.AttemptAbandoned(key, row.attempt, row.node, row.work_id, AbandonReason("ended"))
            self.at(now + DISPATCH_MS, self.on_cancel, self.nodes[row.node], ended)

    def run_of(self, routed: ev.RequestRouted) -> Run:
        """Make the attempt for its machine."""
        asked = self.asked[routed.request]
        return Run(
            work_id=routed.work_id,
            request=routed.request,
            model=self.nodes[routed.node].models[asked.model],
            prompt_tokens=asked.read_tokens or asked.prompt_tokens,
            tokens=asked.tokens,
            overhead_ms=asked.overhead_ms,
            session=asked.session,
        )

    # the result

    def result(self, policy: str, seed: int) -> Result:
        """Return the figures of the run. Raises SimulationError when a request has no end."""
        answers, scene, rejected = len(self.latencies_ms), self.scene, self.ended.total()
        if answers + rejected != scene.requests:
            raise SimulationError(f"{answers} answers and {rejected} refusals to {scene.requests}")
        return Result(
            regime=scene.regime,
            workload=scene.workload,
            policy=policy,
            seed=seed,
            rejected=rejected,
            **self.figures(),
        )

    def figures(self) -> dict[str, int]:
        """Return times to the answer, loads, and time above the mark on all nodes."""
        nodes = self.nodes.values()
        return percentiles(self.latencies_ms) | {
            "cold_loads": sum(node.cold_loads for node in nodes),
            "hot_ms": round(sum(node.thermals.hot_ms for node in nodes)),
        }
