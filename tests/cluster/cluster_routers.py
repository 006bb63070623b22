"""Router processes: the real Router, driven by hand, killed wherever it waits, started again."""

from __future__ import annotations

from collections.abc import Callable

from redis.exceptions import RedisError

from orion_streams.agents.retention import Retention
from orion_streams.agents.router import Router
from orion_streams.config import Config
from orion_streams.errors import OrionError
from orion_streams.eventlog.loader import save_verified
from orion_streams.model.commit import Snapshot
from tests.cluster.cluster_server import RouterLine, Server
from tests.cluster.world_clock import Process, World, finish, pause

BLOCK_MS, FOLLOW_BLOCK_MS = 1_000, 1_000
PAUSE_MS, RESTART_MS, KEEP_FIRST_MS = 150, 1_000, 200
WAKE_MS = 60
"""So long after news a router that waits looks: what came meanwhile is taken together."""


class DirectRetention(Retention):
    """Verifies its snapshots at once: there is no background."""

    def __init__(self, line: RouterLine, config: Config) -> None:
        super().__init__(line, config)
        self._line = line

    def verify(self, taken: Snapshot) -> None:
        if not self._line.is_broken:
            finish(save_verified(self._line.server, taken))


class RouterProcess(Process):
    """One router, its supervisor, and its way to the server. `refused` hears of ends by a LogError:
    a person has to look. `offset_s`: how far its local time is ahead of UTC."""

    def __init__(
        self, world: World, server: Server, config: Config, name: str, refused: Callable[[str], None]
    ) -> None:
        super().__init__(world)
        self.name, self.config, self._refused = name, config, refused
        self.line = RouterLine(world, server, name)
        self._tokens = world.rng(f"tokens {name}")
        self.router: Router | None = None
        self.starts = self.offset_s = 0
        self.keep_every_ms = 2_000 if "trimming" in world.faults else 3_000
        server.wakers.setdefault("inputs", []).append(lambda: self.wake(WAKE_MS))

    def boot(self) -> None:
        """Start a process with an empty memory."""
        self.start(self._live())

    def kill(self) -> None:
        super().kill()
        self.router = None

    async def _live(self) -> None:
        while True:
            self.router = Router(
                self.line,
                self.config,
                token=lambda: f"{self._tokens.getrandbits(32):08x}",
                clock=lambda: self.world.now_ms / 1000,
                offset_s=lambda _: self.offset_s,
            )
            self.router.retention = DirectRetention(self.line, self.config)
            try:
                await self._supervised(self.router)
            except OrionError as error:
                self._refused(str(error))
                await pause(RESTART_MS)

    async def _supervised(self, router: Router) -> None:
        while True:
            try:
                await self._lead(router)
            except (RedisError, OSError):
                await pause(PAUSE_MS)

    async def _lead(self, router: Router) -> None:
        self.starts += 1
        await router.start()
        await router.make_groups()
        await router.look_for_losses()
        keep_ms = self.world.now_ms + KEEP_FIRST_MS
        while True:
            if router.following:
                await router.follow(FOLLOW_BLOCK_MS)
                continue
            if self.world.now_ms >= keep_ms:
                await router.make_groups()
                await router.look_for_losses()
                await router.retention.keep(router.state, router.guard)
                keep_ms = self.world.now_ms + self.keep_every_ms
            await router.cycle(BLOCK_MS)
