"""One round of chaos: start a grid, break it for a while, mend it, let it rest, check the invariants."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import httpx
import msgspec
from msgspec import Struct
from redis.exceptions import RedisError

from orion_streams.client.calls import RequestError
from orion_streams.config import Config
from orion_streams.demo.observer import Observer
from orion_streams.errors import BackendError, ConfigError, LogError
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.replay.export import export
from orion_streams.replay.source import LiveSource
from orion_streams.replay.verify import Report as Replayed
from orion_streams.runtime.connection import connect
from orion_streams.runtime.embedded_server import Fsync
from tests.chaos import invariants
from tests.chaos.chaos_faults import FAULTS, Fault, Scene, mend, parts_of
from tests.chaos.chaos_grid import CLIENTS, ChaosGrid
from tests.chaos.chaos_load import ChaosClients, end_tasks
from tests.chaos.invariants import LogRow
from tests.chaos.lasting import lasts

USERS, HTTP_USERS, FEW_HTTP_USERS = 24, 50, 10
SHORT_S = 12.0
"""A round that is no longer has few programs: they would only wait for the processor."""
FAULTS_PER_MINUTE, LEAST_PER_MINUTE = 88, 25
AT_ONCE = 6
REST_S, REPLAY_S = 120.0, 300.0
PAGE = 1_000
OUTAGES = ("kill_server", "server_gone", "hang_server")


class Stage(Struct, frozen=True):
    """What a round is played on. `binary` None: the embedded Valkey."""

    server: str
    binary: Path | None
    fsync: Fsync


class Counts(Struct, kw_only=True):
    """What rounds add up to. `tail_repeats`: ends that clients dropped by their id because a server had
    lost its acknowledged tail. `gone`: acknowledged entries that a server lost."""

    requests: int = 0
    answered: int = 0
    kills: int = 0
    lost: int = 0
    duplicate_replies: int = 0
    duplicate_dispatches: int = 0
    repeated_generations: int = 0
    log_gaps: int = 0
    diverged: int = 0
    tail_repeats: int = 0
    gone: int = 0
    decisions: int = 0
    events: int = 0


class Round(Counts):
    """The result of a round. `recovery_ms`: by fault, from its end to the next answer."""

    server: str
    fsync: Fsync
    faults: dict[str, int] = {}
    impossible: list[str] = []
    recovery_ms: dict[str, list[int]] = {}
    longest_silence_ms: int = 0
    codes: dict[str, int] = {}
    http: dict[str, int] = {}
    broken: list[str] = []

    @property
    def place(self) -> str:
        """The server and how it writes."""
        return f"{self.server} {self.fsync}"


class Done(Struct, frozen=True):
    """A fault that was injected and mended, in seconds of this process's monotonic clock."""

    name: str
    began_s: float
    ended_s: float


class Transcript:
    """Lines for the person on stderr; in a file, if there is one, also those of the processes."""

    def __init__(self, file: TextIO | None) -> None:
        self._file, self._began_s = file, time.monotonic()

    def say(self, line: str) -> None:
        """Write a line for the person."""
        sys.stderr.write(f"{time.monotonic() - self._began_s:7.1f} s  {line}\n")
        sys.stderr.flush()
        self.note("chaos", line)

    def note(self, name: str, line: str) -> None:
        """Write a line of a process to the file."""
        if self._file is not None:
            self._file.write(f"{time.monotonic() - self._began_s:7.1f} s  {name}: {line}\n")


def said(path: str | None) -> AbstractContextManager[TextIO | None]:
    """Open the file for the lines of the processes, if one is wanted. Raises ConfigError."""
    if path is None:
        return nullcontext()
    try:
        return Path(path).open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigError(f"--log {path}: cannot be written: {error}") from error


async def play(
    stage: Stage,
    transcript: Transcript,
    *,
    seconds: float,
    rng: random.Random,
    only: frozenset[str],
    outage_s: float,
) -> Round:
    """Play one round on one server. Raises BackendError if the grid cannot be started."""
    folder, fsync = Path(tempfile.mkdtemp(prefix="orion-chaos-")), stage.fsync
    grid = ChaosGrid(folder, stage.binary, fsync, transcript.note)
    try:
        async with grid, connect(grid.redis_url) as redis:
            observer = Observer(redis, grid.config.prefix, list(CLIENTS), sorted(grid.nodes))
            models = sorted({model.name for node in grid.nodes.values() for model in node.spec.models})
            clients = ChaosClients(rng, models, fsync == "everysec")
            scene = Scene(grid, observer, clients, rng, outage_s)
            observer.start()
            return await Chaos(scene, Round(stage.server, fsync), only, transcript.say).run(seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Chaos:
    """Runs one round."""

    def __init__(
        self, scene: Scene, outcome: Round, only: frozenset[str], say: Callable[[str], None]
    ) -> None:
        self.scene, self.outcome, self._say = scene, outcome, say
        self._done: list[Done] = []
        self._busy: set[str] = set()
        self._running: list[asyncio.Task[None]] = []
        self._deck: list[Fault] = []
        names = {fault.name for fault in FAULTS if not only or fault.name in only}
        if not scene.grid.can_move_clock and "move_clock" in names:
            names.remove("move_clock")
            self.outcome.impossible = ["move_clock"]
        self._faults = [fault for fault in FAULTS if fault.name in names]

    async def run(self, seconds: float) -> Round:
        """Inject faults for so many seconds, then check."""
        scene, grid = self.scene, self.scene.grid
        scene.load.start(grid, USERS, HTTP_USERS if seconds > SHORT_S else FEW_HTTP_USERS)
        began_s = time.monotonic()
        await self._break_things(began_s + seconds)
        await end_tasks(self._running)
        self._say("everything is mended; the grid comes to rest …")
        await mend(scene)
        ended_s = time.monotonic()
        await scene.load.stop(REST_S)
        tally = await scene.observer.stop()
        answered = len(scene.observer.ends.keys() & scene.observer.asked)  # pulls end, too
        rows = await read_log(grid.redis_url, grid.config)
        replayed = await replay(grid)
        self._count(tally.requests, answered, rows, replayed)
        self._time(began_s, ended_s)
        if self.outcome.broken:
            self._say(await kept(grid))
        return self.outcome

    async def _break_things(self, until_s: float) -> None:
        share = sum(fault.share for fault in self._faults) / sum(fault.share for fault in FAULTS)
        # one chosen fault comes as often as among all others, but not too rarely for a short run
        pause_s = 60 / max(FAULTS_PER_MINUTE * share, LEAST_PER_MINUTE)
        while time.monotonic() < until_s:
            await lasts(self.scene.rng.uniform(0.5, 1.5) * pause_s)
            await end_tasks([task for task in self._running if task.done()])
            self._running = [task for task in self._running if not task.done()]
            if len(self._running) < AT_ONCE and (chosen := self._draw()):
                self._running.append(asyncio.create_task(self._inject(*chosen)))

    def _draw(self) -> tuple[Fault, str] | None:
        """Draw a fault with a free target, and the target; each comes by its share before any repeats."""
        if not self._deck:
            self._deck = [fault for fault in self._faults for _ in range(fault.share)]
            self.scene.rng.shuffle(self._deck)
        for fault in self._deck:
            free = [target for target in fault.targets if parts_of(target).isdisjoint(self._busy)]
            if free:
                self._deck.remove(fault)
                return fault, self.scene.rng.choice(free)
        return None

    async def _inject(self, fault: Fault, target: str) -> None:
        began_s = time.monotonic()
        self._busy |= parts_of(target)
        try:
            await fault.inject(self.scene, target)
        except (RedisError, OSError, BackendError, RequestError, httpx.HTTPError) as error:
            self._say(
                f"{fault.name} on {target} was no use: {type(error).__name__}"
            )  # another fault came first
            return
        finally:
            self._busy -= parts_of(target)
        self._done.append(Done(fault.name, began_s, time.monotonic()))
        open_now = len(self.scene.observer.open())
        self._say(f"{fault.name} on {target}, {open_now} requests open")

    def _count(self, requests: int, answered: int, rows: list[LogRow], replayed: Replayed | str) -> None:
        scene, out = self.scene, self.outcome
        if isinstance(replayed, str):
            diverged, replayed = [replayed], Replayed(diverged=1)
        else:
            diverged = [str(replayed.first_divergence)] * replayed.diverged
        observer, load, always = scene.observer, scene.load, out.fsync == "always"
        checks = broken_promises(observer, load, rows, always=always) | {"diverged": diverged}
        out.broken = [invariants.in_words(name, cases) for name, cases in checks.items() if cases]
        out.requests, out.answered, out.kills = requests, answered, scene.kills
        for name in ("lost", "duplicate_replies", "duplicate_dispatches", "log_gaps"):
            setattr(out, name, len(checks[name]))
        out.diverged = replayed.diverged
        out.repeated_generations = invariants.repeated_generations(observer)
        out.tail_repeats, out.gone = load.repeats, observer.gone
        out.decisions, out.events = replayed.decisions, replayed.events
        out.codes = dict(sorted(load.codes.items()))
        out.http = dict(sorted(load.http.ends.items())) if load.http is not None else {}

    def _time(self, began_s: float, ended_s: float) -> None:
        answered_s = sorted(self.scene.observer.answered_s)
        self.outcome.faults = dict(sorted(Counter(each.name for each in self._done).items()))
        for each in self._done:
            over_s = max([each.ended_s, *(other.ended_s for other in self._done if holds_up(other, each))])
            following = bisect.bisect(answered_s, over_s)
            if following < len(answered_s):
                took_ms = round((answered_s[following] - over_s) * 1000)
                self.outcome.recovery_ms.setdefault(each.name, []).append(took_ms)
        self.outcome.longest_silence_ms = longest_gap_ms(answered_s, began_s, ended_s)


def broken_promises(
    observer: Observer, load: ChaosClients, rows: list[LogRow], *, always: bool
) -> dict[str, list[str]]:
    """Every promise, with the cases that break it. `always`: no acknowledged write may be lost."""
    told, poisoned = (set() if always else load.told), (0 if observer.gone else load.poisoned)
    return {
        "lost": invariants.lost(observer, told, load.gave_up),
        "duplicate_replies": invariants.duplicate_replies(observer),
        "duplicate_dispatches": invariants.duplicate_dispatches(observer),
        "stale_answers": invariants.stale_answers(observer),
        "glued_halves": invariants.glued_halves(observer),
        "half_answers": invariants.half_answers(load.texts),
        "unrefused_poison": invariants.unrefused_poison(observer, poisoned),
        "expired_by_a_jump": invariants.expired_by_a_jump(observer),
        "robot_worked": invariants.robot_worked(observer),
        "log_gaps": invariants.log_gaps(rows),
        "worked_while_backed_off": invariants.worked_while_backed_off(rows),
        "disk_orders": invariants.disk_orders(rows, observer),
        "broken_over_http": load.http.broken if load.http is not None else [],
        "acknowledged_but_gone": [f"{observer.gone} entries"] if always and observer.gone else [],
    }


def holds_up(outage: Done, fault: Done) -> bool:
    """Return whether the server was away when the fault ended: then recovery starts when it is back."""
    return outage.name in OUTAGES and outage.began_s < fault.ended_s < outage.ended_s


def longest_gap_ms(answered_s: Iterable[float], began_s: float, ended_s: float) -> int:
    """Return the longest time without an answer, in ms."""
    moments = [began_s, *(each for each in answered_s if began_s < each < ended_s), ended_s]
    return round(max(after - before for before, after in itertools.pairwise(moments)) * 1000)


async def read_log(url: str, config: Config) -> list[LogRow]:
    """Read the whole log."""
    redis: Any = connect(url)
    rows: list[LogRow] = []
    after = "-"
    try:
        while page := await redis.xrange(config.key("log"), min=after, count=PAGE):
            for entry_id, fields in page:
                raw = fields[b"event"]
                rows.append(LogRow(int(entry_id.partition(b"-")[0]), raw, json.loads(raw)))
            after = f"({page[-1][0].decode()}"
    finally:
        await redis.aclose()
    return rows


async def kept(grid: ChaosGrid) -> str:
    """Export the log to a file that outlives the round; return where it is, or why it failed."""
    path = Path(tempfile.mkdtemp(prefix="orion-broken-")) / "log.jsonl.gz"
    async with connect(grid.redis_url) as redis:
        log = LiveSource(RedisLog(redis, grid.config.prefix), grid.config)
        try:
            await export(log, path, *await log.bounds(), see=lambda _: None)
        except LogError as error:
            return f"the log of this round cannot be exported: {error}"
    return f"the log of this round: orion replay {path}"


async def replay(grid: ChaosGrid) -> Replayed | str:
    """Verify the log in a fresh process. Return its report, or what it printed if it failed."""
    where = ("--redis", grid.redis_url, "--config", str(grid.config_path))
    command = (sys.executable, "-m", "orion_streams.cli", "replay", "--json", *where)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(REPLAY_S):
        out, said = await process.communicate()
    try:
        return msgspec.json.decode(out, type=Replayed)
    except msgspec.DecodeError:
        return f"the recomputation ended with {process.returncode}: {said.decode(errors='replace').strip()}"
