"""The whole circle in memory: real ingest, fold, decide and emit; agents and Ollamas as a few dicts.

Nothing happens by itself: whoever drives it says when an agent beats, reads its work, begins, ends or
fails. Every answer of `decide` is checked against the laws as it is given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from orion_streams.decider.decide import Question, decide
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.commit import Guard, OutEntry, Raw
from orion_streams.model.policy import ClientRules, ModelRules, NodeRules, Policy
from orion_streams.model.state import Grid, Node, Request
from orion_streams.projections import evolve
from orion_streams.protocol import agent_entries
from orion_streams.protocol.agent_entries import InstalledModel, ResidentModel, WorkHead
from orion_streams.protocol.commit_builder import CommitBuilder, LoggedGrid
from orion_streams.protocol.node_health import inventory_digest
from tests.grids import LIBRARY, POLICY
from tests.properties.laws import ROUNDS, TERMINAL, check

OPERATOR = "cli"
EDGE, MASTER, WORKER = "orion-edge", "orion-master", "orion-worker"
RULES = (
    NodeRules(EDGE, inference=False, ram_mb=4_096),
    NodeRules(MASTER, tiers=(1,), ram_mb=16_384),
    NodeRules(WORKER, tiers=(2,), slots=2),
)
TERMINAL_REPLIES = ("done", "error", "expired", "cancelled")
EPOCH_MS = 1_800_000_000_000


class Machine:
    """A node: its agent, its Ollama, its thermometer."""

    def __init__(self, name: str, ram_total_mb: int, models: Sequence[str] = tuple(LIBRARY)) -> None:
        self.name, self.ram_total_mb = name, ram_total_mb
        self.temp_mc: int | None = 50_000
        self.other_mb = 1_500
        self.boot = 1
        self.clock_ms = 1_000
        self.alive = True
        self.leaving = self.goodbye = False
        self.installed = {
            model: InstalledModel(model, LIBRARY[model].digest, LIBRARY[model].size_mb) for model in models
        }
        self.resident: dict[str, ResidentModel] = {}
        self.inbox: list[tuple[str, WorkHead]] = []
        self.in_hand: dict[str, WorkHead] = {}
        self.said: list[agent_entries.ResultHead] = []
        self.work_read = self.results_written = ""

    @property
    def ram_used_mb(self) -> int:
        """As a machine shows it that does not map its models."""
        return min(self.other_mb + sum(row.size_mb for row in self.resident.values()), self.ram_total_mb)

    def health(self) -> agent_entries.HealthHead:
        """One complete health entry."""
        self.clock_ms += 1_000
        inventory = tuple(self.installed.values())
        return agent_entries.HealthHead(
            boot=f"b{self.boot}",
            sampled_ms=self.clock_ms,
            temp_mc=self.temp_mc,
            ram_used_mb=self.ram_used_mb,
            ram_total_mb=self.ram_total_mb,
            cpu_permille=100,
            resident=tuple(self.resident.values()),
            inventory_digest=inventory_digest(inventory),
            inventory=inventory,
            in_hand=tuple(self.in_hand),
            work_read=self.work_read,
            results_written=self.results_written,
            leaving=self.leaving,
            goodbye=self.goodbye,
        )

    def read_work(self) -> list[str]:
        """Take what has come; the work ids of runs and loads that were withdrawn."""
        withdrawn = []
        for work_id, head in self.inbox:
            self.work_read = work_id
            if head.op in ("run", "load"):
                self.in_hand[work_id] = head
            elif head.op == "cancel" and head.work_id in self.in_hand:
                withdrawn.append(head.work_id)
            elif head.op == "unload":
                self.resident.pop(head.model, None)
        self.inbox.clear()
        return withdrawn

    def load(self, work_id: str) -> None:
        """Ollama brings the runner that this work needs, unless it stands there under any name."""
        head = self.in_hand[work_id]
        on_disk = self.installed.get(head.model)
        if on_disk is None:
            return
        num_ctx = head.options.get("num_ctx", 4_096)
        same = [row for row in self.resident.values() if row.digest == on_disk.digest]
        if any(row.context_length == num_ctx for row in same):
            return
        for row in same:
            del self.resident[row.name]
        size_mb = on_disk.size_mb + on_disk.size_mb * num_ctx // 50_000 + 204
        self.resident[head.model] = ResidentModel(head.model, on_disk.digest, size_mb, num_ctx)


class World:
    """A grid and its machines. `questions`: what its router asks; all, unless a control says less."""

    def __init__(
        self,
        rules: Sequence[NodeRules] = RULES,
        policy: Policy = POLICY,
        models: dict[str, ModelRules] | None = None,
        questions: Sequence[Question] | None = None,
        checking: Callable[[Grid, ev.AnyEvent, Grid], None] = check,
    ) -> None:
        self.state, self.guard, self.now_ms = LoggedGrid(Grid()), Guard(), EPOCH_MS
        self.questions, self.checking = questions, checking
        self.machines = {each.name: Machine(each.name, each.ram_mb) for each in rules}
        self.log: list[ev.AnyEvent] = []
        self.replies: dict[str, list[str]] = {}
        self.ended: Counter[str] = Counter()
        self._waiting: list[Raw] = []
        self._ids = 0
        self.change(policy, rules, models or {})

    @property
    def grid(self) -> Grid:
        """The router's grid."""
        return self.state.grid

    def node(self, name: str) -> Node:
        """A row of the node-state table."""
        return self.grid.nodes[name]

    def request(self, key: str) -> Request:
        """An open request."""
        return self.grid.open[key]

    # what comes in

    def write(self, stream: str, fields: dict[str, Any]) -> str:
        """An entry for the next commit."""
        self._ids += 1
        entry_id = f"{self.now_ms}-{self._ids}"
        raw = {
            name.encode(): value if isinstance(value, bytes) else str(value).encode()
            for name, value in fields.items()
        }
        self._waiting.append(Raw(stream, entry_id, raw))
        return entry_id

    def ask(
        self,
        name: str,
        model: str,
        client: str = "brain",
        options: dict[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """A request; its key."""
        more = {"options": json.dumps(options)} if options else {}
        self.write(f"requests:{client}", {"id": name, "model": model, "prompt": "p", **more, **fields})
        return f"{client}/{name}"

    def cancel(self, key: str) -> None:
        """The client no longer wants it."""
        client, _, name = key.partition("/")
        self.write(f"requests:{client}", {"cancel": name})

    def rest(self, name: str, for_ms: int = 0) -> None:
        """An operator drains a node, whoever else answers."""
        self.write(f"requests:{OPERATOR}", {"id": "rest", "drain": name, "for_ms": for_ms, "last": 1})

    def resume(self, name: str) -> None:
        """An operator lets a node go on."""
        self.write(f"requests:{OPERATOR}", {"id": "resume", "resume": name})

    def beat(self, *names: str) -> None:
        """A health entry of these machines, or of all that live."""
        for name in names or self.machines:
            if self.machines[name].alive:
                self.write(
                    f"health:{name}", {"head": agent_entries.encode_head(self.machines[name].health())}
                )

    def read_work(self, name: str) -> None:
        """The agent takes its work; what was withdrawn ends at once."""
        for work_id in self.machines[name].read_work():
            self.end(name, work_id, "failed", code="cancelled", blame="ours")

    def begin(self, name: str, work_id: str) -> None:
        """A run begins: its model comes into memory."""
        machine = self.machines[name]
        machine.load(work_id)
        head = machine.in_hand[work_id]
        if head.op == "run":
            self.say(name, agent_entries.ResultHead("started", head.request, head.attempt, work_id))

    def end(self, name: str, work_id: str, op: agent_entries.ResultOp = "completed", **values: Any) -> None:
        """A run or load ends."""
        machine = self.machines[name]
        if op == "completed":
            machine.load(work_id)
            values = {
                "tokens": 20,
                "prompt_tokens": 10,
                "prefill_ms": 300,
                "decode_ms": 2_000,
                "total_ms": 2_300,
                **values,
            }
        head = machine.in_hand.pop(work_id)
        self.say(name, agent_entries.ResultHead(op, head.request, head.attempt, work_id, **values))

    def say(self, name: str, head: agent_entries.ResultHead) -> None:
        """An entry of the machine's results, maybe once more."""
        machine = self.machines[name]
        machine.said.append(head)
        machine.results_written = self.write(f"results:{name}", {"head": agent_entries.encode_head(head)})

    # what the router makes of it

    def change(self, policy: Policy, rules: Sequence[NodeRules], models: dict[str, ModelRules]) -> None:
        """New rules come into force."""
        revision = self.grid.revision + 1
        draft = CommitBuilder(self.state, self.guard, self.now_ms)
        draft.begin(decided=False)
        clients = {OPERATOR: ClientRules(operator=True)}
        changed = ev.PolicyChanged(revision, f"p{revision}", policy, tuple(rules), models, clients=clients)
        draft.stage(changed)
        draft.mark_inputs()
        self.finish(draft)

    def commit(self, passed_ms: int = 10) -> tuple[ev.AnyEvent, ...]:
        """One commit of all that waits; what was answered."""
        self.now_ms += passed_ms
        draft = CommitBuilder(self.state, self.guard, self.now_ms)
        draft.begin(decided=True)
        for raw in self._waiting:
            draft.take(raw, 1_100_000, self.grid.policy.max_step_ms, 4_000_000, 20_000)
        self._waiting.clear()
        draft.mark_inputs()
        answers = decide(self.grid, self.questions)
        assert len(answers) <= self.grid.policy.max_events
        for answer in answers:
            before = self.grid.copy()
            self.checking(before, answer, evolve(before, answer))
            draft.stage(answer)
        self.finish(draft)
        return answers

    def settle(self, passed_ms: int = 10) -> list[ev.AnyEvent]:
        """Commits until there is nothing to add."""
        answers = list(self.commit(passed_ms))
        for _ in range(ROUNDS):
            more = self.commit(0)
            if not more:
                return answers
            answers += more
        raise AssertionError(f"no fixed point: {answers[-3:]}")

    def finish(self, draft: CommitBuilder) -> None:
        """What was committed reaches the log, the agents and the clients."""
        commit, self.guard = draft.finish("token")
        events = [event_codec.decode(raw) for raw in commit.events]
        self.log += events
        self.ended.update(event.request for event in events if isinstance(event, TERMINAL))
        for out in commit.outs:
            self.deliver(out)

    def deliver(self, out: OutEntry) -> None:
        """An entry of a work or reply stream."""
        kind, _, owner = out.stream.partition(":")
        if kind == "work" and owner in self.machines:
            self.machines[owner].inbox.append((out.id, agent_entries.decode_work(out.fields["head"])))
        elif kind == "replies" and out.fields["kind"] in TERMINAL_REPLIES:
            key = f"{owner}/{out.fields['id']}"
            self.replies.setdefault(key, []).append(out.fields["kind"])

    def work_all(self, passed_ms: int = 500) -> list[ev.AnyEvent]:
        """Every machine that lives reads its work, runs all of it and beats."""
        for name, machine in self.machines.items():
            if machine.alive:
                self.read_work(name)
                for work_id in list(machine.in_hand):
                    self.begin(name, work_id)
        self.beat()
        answers = self.settle(passed_ms)
        for name, machine in self.machines.items():
            if machine.alive:
                for work_id in list(machine.in_hand):
                    self.end(name, work_id)
        self.beat()
        return answers + self.settle(passed_ms)
