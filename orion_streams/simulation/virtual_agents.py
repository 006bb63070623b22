"""Report results, loads and health of the simulated machines as inputs of the next commit."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable

from orion_streams.model import events as ev
from orion_streams.model.state import Assignment, Grid
from orion_streams.model.state import Run as Assigned
from orion_streams.model.vocabulary import Blame
from orion_streams.simulation.node_physics import Run, VirtualNode
from orion_streams.simulation.virtual_house import Model
from orion_streams.simulation.workloads import Arrival

ENDLESS_MB = 1 << 30


class Reporter:
    """Is told of everything on the machines, as their agents. `asked`: requests without an answer;
    `latencies_ms`: times to the answers; `answered`: answers by node."""

    def __init__(self, all_warm: bool, progress: Callable[[int], None] | None, grid: Grid) -> None:
        self.grid = grid
        self.all_warm = all_warm
        self.progress = progress
        self.inputs: list[ev.AnyEvent] = []
        self.asked: dict[str, Arrival] = {}
        self.latencies_ms = array("q")
        self.answered: Counter[str] = Counter()
        self.boots: dict[str, int] = {}

    def sample(self, node: VirtualNode, now: int) -> ev.NodeSampled:
        """Return a sample of the machine."""
        return ev.NodeSampled(
            node=node.name,
            boot=f"boot-{self.boots[node.name]}",
            sampled_ms=now,
            temp_mc=int(node.thermals.temp_mc),
            ram_used_mb=node.used_mb(now),
            ram_total_mb=ENDLESS_MB if self.all_warm else node.spec.ram_total_mb,
            cpu_permille=970 if node.computing else 20,
            work_read=node.work_read,
            in_hand=tuple(node.in_hand()),
        )

    def run_started(self, node: VirtualNode, run: Run) -> None:
        """Report a start."""
        request = self.grid.open.get(run.request)
        if request is not None and request.work_id == run.work_id:
            self.inputs.append(ev.RequestStarted(run.request, request.attempt, run.work_id))

    def run_ended(self, node: VirtualNode, run: Run, now: int) -> None:
        """Report an answer; only the first one of a request completes it."""
        request = self.grid.open.get(run.request)
        held = self.attempt(node.name, run.work_id)
        if request is None or request.work_id != run.work_id or run.request not in self.asked:
            self.ended_late(node.name, run.work_id, run.request, held.attempt if held else 0, "completed")
            return
        took_ms = now - run.began_ms
        prefill_ms = round(took_ms * run.prefill_ms / run.work_ms)
        warm_ms = round(took_ms * run.overhead_ms / run.work_ms)
        self.inputs.append(
            ev.RequestCompleted(
                request=run.request,
                attempt=request.attempt,
                node=node.name,
                work_id=run.work_id,
                tokens=run.tokens,
                prompt_tokens=run.prompt_tokens,
                load_ms=run.load_ms,
                prefill_ms=prefill_ms,
                decode_ms=took_ms - prefill_ms - warm_ms,
                total_ms=now - run.handed_ms,
                cold=held is not None and held.cold,
                alone=held is not None and held.alone,
            )
        )
        self.answered[node.name] += 1
        self.latencies_ms.append(now - self.asked.pop(run.request).at_ms)
        if self.progress is not None and len(self.latencies_ms) % 1_000 == 0:
            self.progress(len(self.latencies_ms))

    def ended_late(self, node: str, work_id: str, request: str, attempt: int, outcome: str) -> None:
        """Report a result that only frees its slot."""
        if self.attempt(node, work_id) is not None:
            self.inputs.append(ev.AttemptEnded(request, attempt, node, work_id, outcome))

    def model_loaded(self, node: VirtualNode, model: Model) -> None:
        """Report a loaded model."""
        size_mb = 1 if self.all_warm else model.resident_mb
        self.inputs.append(ev.ModelLoaded(node.name, model.name, model.digest, size_mb, model.num_ctx))

    def model_unloaded(self, node: VirtualNode, model: str) -> None:
        """Report an unloaded model."""
        self.inputs.append(ev.ModelUnloaded(node.name, model))

    def load_ended(self, node: VirtualNode, work_id: str, model: Model, load_ms: int) -> None:
        """Report the end of an ordered load."""
        held = self.held(node.name, work_id)
        alone = held is not None and held.alone
        self.inputs.append(
            ev.LoadEnded(
                node=node.name, model=model.name, work_id=work_id, ok=True, load_ms=load_ms, alone=alone
            )
        )

    def restarted(self, node: VirtualNode, lost: list[str]) -> None:
        """Report a restart: what the agent had in hand failed, and nothing is in memory."""
        for work_id in lost:
            held = self.attempt(node.name, work_id)
            if held is None:
                continue
            request = self.grid.open.get(held.request)
            if request is not None and request.work_id == work_id:
                self.inputs.append(
                    ev.AttemptFailed(
                        request=held.request,
                        attempt=held.attempt,
                        node=node.name,
                        work_id=work_id,
                        code="agent_restarted",
                        blame=Blame.NODE,
                    )
                )
            else:
                self.ended_late(node.name, work_id, held.request, held.attempt, "agent_restarted")
        row = self.grid.nodes.get(node.name)
        if not self.all_warm and row is not None:
            self.inputs += [ev.ModelUnloaded(node.name, model) for model in row.resident]

    def attempt(self, node: str, work_id: str) -> Assigned | None:
        """Return what the grid knows of an attempt, if it does."""
        held = self.held(node, work_id)
        return held if isinstance(held, Assigned) else None

    def held(self, node: str, work_id: str) -> Assignment | None:
        """Return what the grid knows of an assignment; None on a node that the rules left out."""
        row = self.grid.nodes.get(node)
        return row.assignments.get(work_id) if row is not None else None
