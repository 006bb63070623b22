"""Invariants of the log: gapless, replayable, equal to the live state, and of what stands in it."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from orion_streams.errors import LogError
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import Policy
from orion_streams.model.snapshot import encode_grid
from orion_streams.model.state import Grid
from orion_streams.projections import apply
from orion_streams.protocol.commit_builder import LoggedGrid, chain
from orion_streams.replay.verify import Verifier
from tests.cluster.cluster_grid import Cluster
from tests.cluster.found import Found
from tests.cluster.journal import Step

REPLAYED_EVERY = 4
"""Every so manieth seed's decisions are all made again: it costs as much as making them."""
SLACK = 800
"""Entries that may come between two rounds of trimming, while a router is away, too."""
FROM_REQUESTS = (ev.RequestAccepted, ev.RequestResent, ev.RequestRejected, ev.RequestCancelled)
TERMINAL = (ev.RequestCompleted, ev.RequestFailed, ev.RequestExpired, ev.RequestCancelled)


class Safety:
    """Follows each node's availability by its samples alone: out strictly above a mark, back at or below
    the lower ones for some samples in a row."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.passed: dict[str, set[str]] = {}
        self.calm: dict[str, int] = {}
        self.last: dict[str, ev.NodeSampled] = {}

    def sampled(self, event: ev.NodeSampled) -> None:
        """Take a sample."""
        policy, passed = self.policy, self.passed.get(event.node, set())
        temp_mc = policy.temp_return_mc if "hot" in passed else policy.temp_max_mc
        permille = policy.ram_return_permille if "ram" in passed else policy.ram_max_permille
        is_calm = (event.temp_mc or 0) <= temp_mc
        is_calm = is_calm and event.ram_used_mb * 1000 <= permille * event.ram_total_mb
        self.calm[event.node] = self.calm.get(event.node, 0) + 1 if is_calm else 0
        self.last[event.node] = event

    def decided(self) -> None:
        """Take out whoever is above a mark now: the router has decided."""
        for name, event in self.last.items():
            passed = self.passed.setdefault(name, set())
            hot = (event.temp_mc or 0) > self.policy.temp_max_mc and "hot" not in passed
            full = event.ram_used_mb * 1000 > self.policy.ram_max_permille * event.ram_total_mb
            for reason, is_so in (("hot", hot), ("ram", full and "ram" not in passed)):
                if is_so:
                    passed.add(reason)
                    self.calm[name] = 0


class LogWatcher:
    """Checks the events in order."""

    def __init__(self, policy: Policy, found: Found, counted: tuple[str, ...]) -> None:
        """`counted`: the inputs of whose entries each is an event."""
        self.found, self.counted = found, counted
        self.safety = Safety(policy)
        self.open: set[str] = set()
        self.installed: dict[str, set[str]] = {}
        self.models: dict[str, str] = {}
        self.ended: set[str] = set()

    def watch(self, events: list[ev.AnyEvent], inputs: int, step: Step) -> None:
        """Check a commit."""
        if step.overlooked:
            self.found.breaks("health_is_read_first", f"{step.overlooked} got work, its health unread")
        taken = Counter(kind_of(event) for event in events[1 : 1 + inputs])
        for event in events[1 : 1 + inputs]:
            self.on_event(event)
        for kind in self.counted:
            expected = sum(count for stream, count in step.taken.items() if stream.startswith(kind))
            if taken[kind] != expected:
                self.found.breaks(
                    "inputs_taken_once",
                    f"{taken[kind]} events for {expected} entries of {kind} in a commit",
                )
        head = events[0]
        if isinstance(head, ev.Committed) and head.decided:
            self.safety.decided()
        for event in events[1 + inputs :]:
            self.on_event(event)

    def on_event(self, event: ev.AnyEvent) -> None:
        """Check an event."""
        found = self.found
        match event:
            case ev.NodeSampled():
                self.safety.sampled(event)
            case ev.ModelInstalled():
                self.installed.setdefault(event.node, set()).add(event.model)
            case ev.ModelRemoved():
                self.installed.setdefault(event.node, set()).discard(event.model)
            case ev.RequestAccepted():
                if event.request in self.open:
                    found.breaks("known_ids_start_nothing", f"{event.request} was accepted while open")
                self.open.add(event.request)
                self.models[event.request] = event.model
            case ev.RequestRouted():
                self.on_routed(event)
            case ev.NodeReturned():
                self.on_return(event.node)
            case ev.AttemptAbandoned() if event.reason == "gone" and event.work_id in self.ended:
                found.breaks("gone_only_when_gone", f"{event.work_id} had ended when it was called gone")
            case _ if isinstance(event, TERMINAL):
                if event.request not in self.open:
                    found.breaks("one_end_in_the_log", f"{event.request} ended while not open")
                self.open.discard(event.request)

    def on_routed(self, event: ev.RequestRouted) -> None:
        """Check a dispatch: only to a node that is not out and has the model."""
        if self.safety.passed.get(event.node):
            self.found.breaks(
                "backed_off_never_routed", f"{event.request} went to {event.node}, which is out"
            )
        model = self.models.get(event.request, "")
        if model not in self.installed.get(event.node, ()):
            self.found.breaks("model_absent_never_dispatched", f"{event.node} does not have {model}")

    def on_return(self, node: str) -> None:
        """Check that a node returns after calm samples only."""
        calm = self.safety.calm.get(node, 0)
        if calm < self.safety.policy.return_samples:
            self.found.breaks("no_flapping", f"{node} returned after {calm} calm samples in a row")
        self.safety.passed[node] = set()
        self.safety.calm[node] = 0


def kind_of(event: ev.AnyEvent) -> str:
    """Name the input that an event comes from."""
    if isinstance(event, FROM_REQUESTS):
        return "requests"
    if isinstance(event, ev.NodeSampled):
        return "health"
    return event.stream.partition(":")[0] if isinstance(event, ev.InputRejected) else ""


def check(cluster: Cluster, found: Found) -> None:
    """Check all invariants of the log."""
    journal = cluster.server.journal
    counted = ("requests",) if cluster.world.happened["deleted_stream"] else ("requests", "health")
    watcher = LogWatcher(cluster.config.policy, found, counted)
    state = LoggedGrid(Grid())
    verifier = Verifier(state)
    rows, replays = enumerate(journal.log, start=1), cluster.world.seed % REPLAYED_EVERY == 0
    try:
        for step in journal.steps:
            commit = list(islice(rows, step.events))
            if not commit:
                continue
            events = [event_codec.decode(raw) for _, raw in commit]
            head = events[0]
            if not isinstance(head, ev.Committed):
                raise LogError(f"position {commit[0][0]}: a commit begins with its head")
            watcher.watch(events, head.inputs, step)
            if replays:
                verifier.check(commit)
            else:
                fold(state, commit, events)
    except LogError as error:
        found.log_gaps += 1
        found.breaks("log_gapless", str(error))
        return
    found.diverged = verifier.report.diverged
    if found.diverged:
        found.breaks("replays", str(verifier.report.first_divergence))
    if watcher.open:
        found.breaks("every_request_ends", f"{min(watcher.open)} is open in the log for ever")
    check_state(cluster, found, state)
    check_bounds(cluster, found)


def fold(state: LoggedGrid, commit: list[tuple[int, bytes]], events: list[ev.AnyEvent]) -> None:
    """Fold a commit whose events were decoded before."""
    for (position, raw), event in zip(commit, events, strict=True):
        if isinstance(event, ev.Committed) and event.hash != state.digest.hex():
            raise LogError(f"the log before position {position} is not the one that was written")
        state.digest = chain(state.digest, raw)
        apply(state.grid, event)


def check_state(cluster: Cluster, found: Found, state: LoggedGrid) -> None:
    """Check that the fold of the whole log is what a router at its head holds."""
    live = [each.router for each in cluster.routers if each.router is not None and cluster.is_settled(each)]
    for router in live:
        if encode_grid(router.state.grid) != encode_grid(state.grid) or router.state.digest != state.digest:
            found.breaks("fold_equals_state", f"at position {state.grid.position} they differ")
    ids = cluster.server.streams.get("log", {})
    first = state.grid.position - len(ids) + 1
    if list(ids) != [f"{position}-0" for position in range(first, state.grid.position + 1)]:
        found.log_gaps += 1
        found.breaks("log_gapless", "the ids of the log are not consecutive")
    if cluster.refusals and not cluster.world.happened["deleted_stream"]:
        found.breaks("routers_start", cluster.refusals[0])


def check_bounds(cluster: Cluster, found: Found) -> None:
    """Check that no stream is longer than retention allows."""
    if "trimming" not in cluster.world.faults:
        return
    keep = cluster.config.retention
    limits = {
        "health": keep.health_entries,
        "results": keep.results_entries,
        "replies": 2 * keep.replies_entries + SLACK,  # over the limit they go in small steps
        "requests": SLACK,
        "work": SLACK,
    }
    log_mb = cluster.server._bytes["log"] / 1_000_000
    if log_mb > 2 * keep.log_keep_mb:  # its age is that of a clock which may jump
        found.breaks("streams_are_bounded", f"the log has {log_mb:.1f} MB")
    for stream, rows in cluster.server.streams.items():
        limit = limits.get(stream.partition(":")[0])
        if limit is not None and len(rows) > limit:
            found.breaks("streams_are_bounded", f"{stream} has {len(rows)} entries")
