"""Simulate a machine with its Ollama on a virtual clock: memory, loads, queue, heat.

It serves requests as a real Ollama does: first those whose model is in memory, the oldest first. Its memory
stays below the safety mark: a load evicts idle models, first those ordered to unload, then the least
recently used. One load runs at a time.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from orion_streams.simulation.thermal_model import SLOW_FROM_MC, Thermals, speed_at
from orion_streams.simulation.virtual_house import Model, NodeSetup

LOADING_HEAT = 0.3
"""Load on the machine (0 to 1) while it only reads weights from its disk."""
CACHED_SHARE = 0.8
"""Share of a prompt that is cached for its session."""
NEVER = 1 << 62


class Run(Struct, eq=False, kw_only=True):
    """One attempt of a request. `tokens` of its answer are known to the machine alone; `overhead_ms`: what
    a warm start takes; `handed_ms`, `began_ms`: virtual times."""

    work_id: str
    request: str
    model: Model
    prompt_tokens: int
    tokens: int
    overhead_ms: int
    session: str = ""
    handed_ms: int = -1
    began_ms: int = -1
    load_ms: int = -1
    prefill_ms: float = 0.0
    work_ms: float = 0.0
    left_ms: float = 0.0


class Listener(Protocol):
    """Is told of what happens on a machine."""

    def run_started(self, node: VirtualNode, run: Run) -> None: ...
    def run_ended(self, node: VirtualNode, run: Run, now: int) -> None: ...
    def model_loaded(self, node: VirtualNode, model: Model) -> None: ...
    def model_unloaded(self, node: VirtualNode, model: str) -> None: ...
    def load_ended(self, node: VirtualNode, work_id: str, model: Model, load_ms: int) -> None: ...


class Load(Struct, eq=False):
    """A load in progress: of a `run`, or `ordered` by a work id of its own."""

    model: Model
    began_ms: int
    ends_ms: int
    run: Run | None
    ordered: str


class VirtualNode:
    """One machine. Its agent calls `hand`, `order_load`, `order_unload` and `cancel`; the simulation calls
    `due` at the time of `next_due`. `resident`: the time of last use of each model in memory; `version`
    changes when `next_due` may."""

    def __init__(
        self, setup: NodeSetup, listener: Listener, *, all_warm: bool = False, fifo: bool = False
    ) -> None:
        """`all_warm`: every model is in memory, takes none, and stays there (the lower bound). `fifo`: the
        queue is first in, first out."""
        self.setup, self.spec, self.name = setup, setup.spec, setup.spec.name
        self.room_mb = setup.limit_mb - setup.spec.base_ram_mb
        self.all_warm, self.fifo = all_warm, fifo
        self.listener = listener
        self.thermals = Thermals(setup.spec)
        if setup.temp_mc is not None:
            self.thermals.temp_mc = float(setup.temp_mc)
        self.resident: dict[str, int] = dict.fromkeys(setup.models, 0) if all_warm else {}
        self.models, self.paces = setup.models, setup.paces
        self.leaving: set[str] = set()
        self.prefixes: dict[str, str] = {}
        self.queue: list[Run] = []
        self.running: list[Run] = []
        self.computing: list[Run] = []
        self.orders: list[tuple[str, Model]] = []
        self.loading: Load | None = None
        self.cold_loads = 0
        self.seen_ms = 0
        self.work_read = ""
        self.version = 0
        self.prefill_us = 1e6 / self.spec.prefill_tokens_per_s / 1000
        self.decode_us = 1e6 / self.spec.decode_tokens_per_s / 1000

    # time

    def advance(self, now: int) -> None:
        """Advance to `now`: heat, and the work of the runs, which share the speed."""
        elapsed_ms = now - self.seen_ms
        if elapsed_ms <= 0:
            return
        self.seen_ms = now
        computing = self.computing
        if computing:
            done_ms = self.thermals.advance(elapsed_ms, 1.0) / len(computing)
            for run in computing:
                run.left_ms -= done_ms
        else:
            self.thermals.advance(elapsed_ms, LOADING_HEAT if self.loading is not None else 0.0)

    def next_due(self) -> int:
        """Return when something ends next, if the temperature stays as it is; NEVER if nothing does."""
        ends_ms = self.loading.ends_ms if self.loading is not None else NEVER
        if self.computing:
            least_ms = min([run.left_ms for run in self.computing]) * len(self.computing)
            pace = speed_at(self.thermals.temp_mc)
            ends_ms = min(ends_ms, self.seen_ms + max(-int(-least_ms // pace), 1))
        return ends_ms

    @property
    def is_slowed(self) -> bool:
        """Tell whether the pace changes with the temperature."""
        return self.thermals.temp_mc > SLOW_FROM_MC - 2_000 and bool(self.computing)

    def due(self, now: int) -> None:
        """End what has ended by `now`, and start what waits."""
        self.advance(now)
        loading = self.loading
        if loading is not None and loading.ends_ms <= now:
            self.end_load(loading, now)
        for run in [run for run in self.computing if run.left_ms < 0.5]:
            self.computing.remove(run)
            self.running.remove(run)
            self.resident[run.model.name] = now
            self.listener.run_ended(self, run, now)
            if run.model.name in self.leaving and not self.wanted(run.model.name):
                self.unload(run.model.name)
        self.settle(now)

    # orders of the agent

    def hand(self, run: Run, now: int) -> None:
        """Take an attempt."""
        self.advance(now)
        run.handed_ms = now
        self.work_read = run.work_id
        self.queue.append(run)
        self.settle(now)

    def order_load(self, work_id: str, model: Model, now: int) -> None:
        """Take an ordered load."""
        self.advance(now)
        self.work_read = work_id
        self.orders.append((work_id, model))
        self.settle(now)

    def order_unload(self, model: str) -> None:
        """Mark a model as leaving; `finish_unload` follows a little later."""
        if model in self.resident and not self.all_warm:
            self.leaving.add(model)

    def finish_unload(self, model: str, now: int) -> None:
        """Unload a leaving model, or let it go after its last run."""
        if model in self.leaving and not self.wanted(model):
            self.unload(model)
            self.advance(now)
            self.settle(now)

    def cancel(self, work_id: str, now: int) -> bool:
        """Stop an attempt; return whether it was here."""
        self.advance(now)
        for run in [*self.running, *self.queue]:
            if run.work_id == work_id:
                for each in (self.running, self.computing, self.queue):
                    if run in each:
                        each.remove(run)
                if self.loading is not None and self.loading.run is run:
                    self.loading = None
                self.settle(now)
                return True
        return False

    def fail(self, now: int) -> list[str]:
        """Lose all runs and models; return the work ids that were in hand."""
        self.advance(now)
        held = self.in_hand()
        self.queue, self.running, self.computing, self.orders = [], [], [], []
        self.loading = None
        self.version += 1
        if not self.all_warm:
            self.resident, self.leaving, self.prefixes = {}, set(), {}
        return held

    # readings

    def in_hand(self) -> list[str]:
        """Return the work ids of all attempts and ordered loads."""
        held = [run.work_id for run in self.running]
        if self.queue:
            held += [run.work_id for run in self.queue]
        if self.orders:
            held += [work_id for work_id, _ in self.orders]
        if self.loading is not None and self.loading.ordered:
            held.append(self.loading.ordered)
        return held

    def used_mb(self, now: int) -> int:
        """Return the memory in use, including what a load has read so far."""
        if self.all_warm:
            return self.spec.base_ram_mb
        models, loading = self.models, self.loading
        used_mb = self.spec.base_ram_mb + sum([models[name].resident_mb for name in self.resident])
        if loading is not None:
            span_ms = max(loading.ends_ms - loading.began_ms, 1)
            used_mb += loading.model.resident_mb * (now - loading.began_ms) // span_ms
        return used_mb

    # inside

    def wanted(self, model: str) -> bool:
        """Tell whether a running or queued run needs the model."""
        return any(run.model.name == model for run in self.running) or any(
            run.model.name == model for run in self.queue
        )

    def settle(self, now: int) -> None:
        """Start runs and loads that can start."""
        while self.queue and len(self.running) < self.spec.slots:
            run = self.next_run()
            name = run.model.name
            if name in self.resident:
                self.queue.remove(run)
                self.running.append(run)
                self.listener.run_started(self, run)
                self.compute(run, now)
            elif self.loading is None and self.make_room(run.model):
                self.queue.remove(run)
                self.running.append(run)
                self.listener.run_started(self, run)
                self.begin_load(run.model, now, run, "")
            else:
                break
        while self.orders and self.loading is None:
            work_id, model = self.orders[0]
            if model.name in self.resident:
                self.orders.pop(0)
                self.listener.load_ended(self, work_id, model, 0)
            elif self.make_room(model):
                self.orders.pop(0)
                self.begin_load(model, now, None, work_id)
            else:
                break
        self.version += 1

    def next_run(self) -> Run:
        """Return the oldest run whose model is in memory, else the oldest; with `fifo` the oldest."""
        queue, resident = self.queue, self.resident
        if self.fifo or queue[0].model.name in resident:
            return queue[0]
        return next((run for run in queue if run.model.name in resident), queue[0])

    def compute(self, run: Run, now: int) -> None:
        """Begin prefill and decode."""
        name, size_mb = run.model.name, run.model.size_mb
        self.resident[name] = now
        self.leaving.discard(name)  # a new run cancels the order
        cached = run.session and self.prefixes.get(name) == run.session
        share = 1.0 - CACHED_SHARE if cached else 1.0
        self.prefixes[name] = run.session
        run.began_ms = now
        run.load_ms = now - run.handed_ms + run.overhead_ms
        pace = self.paces.get(name)
        if pace is None:
            run.prefill_ms = run.prompt_tokens * self.prefill_us * size_mb / 1000 * share
            decode_ms = run.tokens * self.decode_us * size_mb / 1000
        else:
            run.prefill_ms = run.prompt_tokens * pace.prefill_us / 1000 * share
            decode_ms = run.tokens * pace.decode_us / 1000
        run.work_ms = run.left_ms = run.overhead_ms + run.prefill_ms + decode_ms
        self.computing.append(run)

    def begin_load(self, model: Model, now: int, run: Run | None, ordered: str) -> None:
        """Begin to read the weights from disk."""
        self.cold_loads += 1
        pace, rate = self.paces.get(model.name), self.spec.disk_mb_per_s
        usual_ms = round(model.size_mb * 1000 / rate) if rate else 0
        reads_ms = pace.load_ms if pace is not None else usual_ms
        self.loading = Load(model, now, now + max(reads_ms, 1), run, ordered)

    def end_load(self, load: Load, now: int) -> None:
        """Complete a load."""
        self.loading = None
        self.resident[load.model.name] = now
        self.prefixes.pop(load.model.name, None)
        self.listener.model_loaded(self, load.model)
        if load.run is not None:
            self.compute(load.run, now)
        else:
            self.listener.load_ended(self, load.ordered, load.model, now - load.began_ms)

    def make_room(self, model: Model) -> bool:
        """Evict idle models until this one fits, or none if it cannot; return whether it fits."""
        models = self.models
        short_mb = model.resident_mb + sum([models[name].resident_mb for name in self.resident])
        short_mb -= self.room_mb
        if short_mb <= 0:
            return True
        chosen = []
        for name in self.idle_models():
            if short_mb <= 0:
                break
            chosen.append(name)
            short_mb -= models[name].resident_mb
        if short_mb > 0:
            return False
        for name in chosen:
            self.unload(name)
        return True

    def idle_models(self) -> list[str]:
        """List models without a run: first leaving ones, then the least recently used."""
        busy = {run.model.name for run in self.running}
        idle = [name for name in self.resident if name not in busy]
        return sorted(idle, key=lambda name: (name not in self.leaving, self.resident[name], name))

    def unload(self, model: str) -> None:
        """Remove a model from memory."""
        if self.all_warm:
            return
        del self.resident[model]
        self.leaving.discard(model)
        self.prefixes.pop(model, None)
        self.listener.model_unloaded(self, model)
