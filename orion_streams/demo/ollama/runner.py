"""Schedule the models in memory: loads, evictions, expiry, and the queue.

Theory of operation, after Ollama's own scheduler:

- A request for a resident model takes it at once: so a busy model starves requests for another one.
  Others enter a bounded queue ("server busy" beyond it).
- One worker serves that queue, one request at a time: it reloads a model whose runner options differ, makes
  room by unloading, and loads. Meanwhile the others wait.
- A model in use is never unloaded; an unload waits until it is idle.
- A crashed model stays listed until the next request for it.
- A free slot of a model goes to a random one of the waiting runs.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from orion_streams.demo.ollama.engine import Engine, LoadedModel, RunnerOptions, context_size
from orion_streams.gateway.native_requests import FOREVER_S
from orion_streams.gateway.refusal import Refusal
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec
from orion_streams.simulation.machine_state import Machine

BUSY = "server busy, please try again.  maximum pending requests exceeded"


class Slots:
    """Limits runs to `count` at a time; a freed slot goes to a random one that waits."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self._free = count
        self._rng = rng
        self._waiting: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        waiting = [turn for turn in self._waiting if not turn.done()]
        if not waiting:
            self._free += 1
            return
        turn = self._rng.choice(waiting)
        self._waiting.remove(turn)
        turn.set_result(None)


class Runner:
    """A resident model with its slots, its number of users and its expiry."""

    def __init__(self, model: ModelSpec, options: RunnerOptions, loaded: LoadedModel, slots: Slots) -> None:
        self.model = model
        self.options = options
        self.loaded = loaded
        self.slots = slots
        self.num_ctx = context_size(model, options)
        self.users = 0
        self.crashed = False
        self.keep_s = 0.0
        self.expires_at_s: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.unloading: asyncio.Task[None] | None = None
        self.closing = False
        self.idle = asyncio.Event()

    @property
    def resident_bytes(self) -> int:
        return self.model.resident_bytes(self.num_ctx)

    def must_reload(self, options: RunnerOptions) -> bool:
        return self.crashed or self.closing or options != self.options

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class _Pending:
    """A queued request, and the future of its runner."""

    def __init__(self, model: ModelSpec, options: RunnerOptions, keep_s: float | None) -> None:
        self.model = model
        self.options = options
        self.keep_s = keep_s
        self.granted: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()


class Scheduler:
    """See the module. `unload_s` returns the duration of the next unload in seconds."""

    def __init__(
        self, spec: NodeSpec, engine: Engine, machine: Machine, unload_s: Callable[[], float]
    ) -> None:
        self._spec = spec
        self._engine = engine
        self._machine = machine
        self._unload_s = unload_s
        # Reproducible order is the aim here, not secrecy.
        self._rng = random.Random(spec.seed)  # noqa: S311
        self._resident: dict[str, Runner] = {}
        self._pending: asyncio.Queue[_Pending] = asyncio.Queue(spec.max_queue)
        self._worker = asyncio.create_task(self._serve_pending())

    def resident(self) -> list[Runner]:
        """Return every listed model, also crashed ones, the last to expire first."""
        return sorted(self._resident.values(), key=self.expires_at_s, reverse=True)

    def resident_bytes(self) -> int:
        """Return the memory that models hold; a crashed one holds none."""
        return sum(r.resident_bytes for r in self._resident.values() if not r.crashed)

    def expires_at_s(self, runner: Runner) -> float:
        """Return when the model expires, in seconds since 1970; an estimate while it is new or busy."""
        return runner.expires_at_s or time.time() + runner.keep_s

    @asynccontextmanager
    async def lease(
        self, model: ModelSpec, options: RunnerOptions, keep_s: float | None
    ) -> AsyncIterator[Runner]:
        """Keep the model in memory, loaded with `options`, while the block runs.

        Raises Refusal 503 when the queue is full and 500 when the model does not fit.
        """
        runner = self._resident.get(model.digest)
        if runner is not None and not runner.must_reload(options):
            self._take(runner, keep_s)
        else:
            runner = await self._queue(_Pending(model, options, keep_s))
        try:
            yield runner
        finally:
            self._give_back(runner)

    def expire(self, model: ModelSpec) -> None:
        """Unload the model as soon as it is idle, without waiting for it."""
        runner = self._resident.get(model.digest)
        if runner is not None:
            runner.expires_at_s = time.time()
            self._evict(runner)

    async def close(self) -> None:
        """Stop everything and unload all models."""
        tasks = [self._worker, *(r.unloading for r in self._resident.values() if r.unloading)]
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for runner in self._resident.values():
            runner.stop_timer()
            await runner.loaded.close()
        self._resident.clear()

    async def _queue(self, request: _Pending) -> Runner:
        try:
            self._pending.put_nowait(request)
        except asyncio.QueueFull:
            raise Refusal(503, BUSY) from None
        try:
            return await request.granted
        except asyncio.CancelledError:
            # Granted and cancelled at the same moment: give it back.
            granted = request.granted
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._give_back(granted.result())
            raise

    async def _serve_pending(self) -> None:
        while True:
            request = await self._pending.get()
            if request.granted.done():
                continue
            try:
                runner = await self._provide(request)
            except Exception as error:
                # Only this request failed: go on with the next one.
                if not request.granted.done():
                    request.granted.set_exception(error)
                continue
            if runner is not None:
                self._grant(request, runner)

    def _grant(self, request: _Pending, runner: Runner) -> None:
        self._take(runner, request.keep_s)
        if request.granted.done():
            self._give_back(runner)
        else:
            request.granted.set_result(runner)

    async def _provide(self, request: _Pending) -> Runner | None:
        """Make the requested model resident; return None when its request is gone."""
        while not request.granted.done():
            runner = self._resident.get(request.model.digest)
            if runner is not None and not runner.must_reload(request.options):
                return runner
            victim = runner or self._victim(request)
            if victim is None:
                return await self._load(request)
            await _either(self._evict(victim), request.granted)
        return None

    def _victim(self, request: _Pending) -> Runner | None:
        """Choose the model to unload: idle ones first, then by shortest keep-alive and name; None if there
        is room. Raises Refusal 500 when it cannot fit."""
        candidates = sorted(self._resident.values(), key=lambda r: (r.users > 0, r.keep_s, r.model.name))
        wanted = request.model.resident_bytes(context_size(request.model, request.options))
        if len(candidates) < self._spec.places and wanted <= self._machine.free_bytes:
            return None
        if candidates:
            return candidates[0]
        free = self._machine.free_bytes
        raise Refusal(
            500,
            f"model requires more system memory ({_human(wanted)}) than is available ({_human(free)})",
        )

    async def _load(self, request: _Pending) -> Runner | None:
        loading = asyncio.ensure_future(self._engine.load(request.model, request.options))
        try:
            await _either(loading, request.granted)
        finally:
            # A caller that goes away, or a stop, ends its load.
            loading.cancel()
        if loading.cancelled() or not loading.done():
            return None
        slots = Slots(self._spec.slots, self._rng)
        runner = Runner(request.model, request.options, loading.result(), slots)
        runner.keep_s = self._spec.keep_alive_s
        self._resident[request.model.digest] = runner
        return runner

    def _take(self, runner: Runner, keep_s: float | None) -> None:
        runner.users += 1
        runner.idle.clear()
        runner.stop_timer()
        if keep_s is not None:
            runner.keep_s = keep_s

    def _give_back(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users:
            return
        runner.idle.set()
        if runner.keep_s <= 0:
            self._evict(runner)
            return
        runner.expires_at_s = time.time() + runner.keep_s
        if runner.keep_s < FOREVER_S:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.keep_s, self._evict, runner)

    def _evict(self, runner: Runner) -> asyncio.Task[None]:
        """Start the unload, once; the task ends when the model is unloaded."""
        runner.stop_timer()
        if runner.unloading is None:
            runner.unloading = asyncio.create_task(self._unload(runner))
        return runner.unloading

    async def _unload(self, runner: Runner) -> None:
        await asyncio.sleep(self._unload_s())
        while runner.users:
            await runner.idle.wait()
        runner.closing = True
        runner.stop_timer()
        try:
            await runner.loaded.close()
        finally:
            del self._resident[runner.model.digest]


async def _either(task: asyncio.Future[Any], granted: asyncio.Future[Runner]) -> None:
    """Wait for the task or the end of the request; cancel neither."""
    await asyncio.wait({task, granted}, return_when=asyncio.FIRST_COMPLETED)


def _human(size: int) -> str:
    """Format a size as Ollama does."""
    exponent = min(3, int(math.log(size, 1024))) if size else 0
    return f"{size / 1024**exponent:.1f} {('B', 'KiB', 'MiB', 'GiB')[exponent]}"
