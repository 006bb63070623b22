"""The node-state table and what hangs on it: immutable values in a few tables.

A `Grid` is a plain record of tables. Its rows are frozen; who folds owns the tables (`Grid.copy`).
All times are grid time in ms, a clock that only the log advances.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Struct

from orion_streams.model.description import Description
from orion_streams.model.policy import UNLISTED, ClientRules, ModelRules, NodeRules, Policy
from orion_streams.model.vocabulary import Blame, Mark, RequestKind, RequestState, WaitKind

T = TypeVar("T")


class Installed(Struct, frozen=True):
    """A model on a node's disk."""

    digest: str
    size_mb: int


class Resident(Struct, frozen=True):
    """A model in a node's memory: a runner, which digest and options identify.

    `context_length` is what Ollama says; `num_ctx` and `runner` what it was asked for, known once a run
    of ours ended on it. `since_ms`: when it came. `pending_mb`: of its memory, what no sample shows yet.
    """

    digest: str
    size_mb: int
    context_length: int = 0
    num_ctx: int = 0
    runner: str = ""
    since_ms: int = 0
    pending_mb: int = 0

    @property
    def context(self) -> int:
        """Return the context length that it runs with; 0 if nobody knows."""
        return self.num_ctx or self.context_length

    def serves(self, num_ctx: int, runner: str, exact: bool) -> bool:
        """Whether this runner takes a run that asks for so much context and these options, as it is: with
        at least as much, or if `exact` as much. What nobody knows of it is believed to fit."""
        if self.num_ctx == num_ctx:
            return self.runner == runner
        if not num_ctx or not self.context:
            return True
        if self.num_ctx and self.runner != runner:
            return False
        return self.context == num_ctx or (self.context > num_ctx and not exact)


class Run(Struct, frozen=True, kw_only=True, tag="run"):
    """An attempt that takes a slot on a node until its result comes or health no longer lists it.

    `run_ms`: the expected time of it all; `load_ms`: the part of that which is a load; `reserve_mb`: the
    memory set aside for that load. `cold`: the model was not resident; `alone`: nothing else was assigned
    meanwhile; `cached`: a session's prefix was there; `missing`: health entries in a row that should list
    it and do not.
    """

    request: str
    attempt: int
    model: str
    run_ms: int
    since_ms: int
    cold: bool = False
    alone: bool = False
    started: bool = False
    missing: int = 0
    load_ms: int = 0
    reserve_mb: int = 0
    num_ctx: int = 0
    runner: str = ""
    cached: bool = False


class Load(Struct, frozen=True, kw_only=True, tag="load"):
    """An ordered load. It takes no slot; its memory is set aside until it has ended. Fields as in `Run`."""

    model: str
    run_ms: int
    since_ms: int
    alone: bool = False
    missing: int = 0
    reserve_mb: int = 0
    num_ctx: int = 0
    runner: str = ""


Assignment = Run | Load


class Rest(Struct, frozen=True):
    """A node's rest since `since_ms`, which the operator `by` asked for: for `for_ms` (0: until somebody
    ends it). What ran then has `drain_ms` to end."""

    by: str
    since_ms: int
    for_ms: int = 0
    drain_ms: int = 0


class DiskWork(Struct, frozen=True):
    """What a node is to do with its disk since `since_ms`: `pull` or `remove` a model, as the operator's
    entry `request` asked."""

    op: str
    model: str
    request: str
    work_id: str
    since_ms: int


class Node(Struct, frozen=True):
    """One row of the node-state table. `heard_ms` is None until the first health entry.

    `forecast_mc`: the temperature at the end of policy.slope_horizon_ms if it goes on rising as it does.
    `still_ms`: for how long the temperature has been the same while the processor worked.
    `backed_off`: the marks that it passed and has yet to return from, in the order of their names.
    `assignments`: what it was given and has not ended, by work id.
    `left_out`: rows of Ollama's lists that could not be used, and why the first; `remote`: models that run
    elsewhere. `sensor`: where the temperature comes from, or why there is none. `engine`: what runs the
    models, such as "ollama 0.24.0".
    `rest`: an operator drained it. `disk`: a model that is being pulled or removed. `leaving`: this boot of
    its agent begins nothing more; `left`: it has said goodbye, too.
    `most_models`: so many models at a time, as a load showed at `most_models_ms` that threw another out
    (0: nothing was learned). `failed_ms`: when an attempt last failed here.
    By model: `used_ms` when a request was last sent to it, `unload_ordered_ms` when it was told to go,
    `load_failed_ms` when an ordered load failed, `sessions` whose prefix its slots still hold.
    Breaker: `suspects` are the requests that failed here since the last answer, `opened_ms` when it
    opened, `trips` how often in a row, `ramp` the answers since it closed (None: all slots are open).
    """

    rules: NodeRules
    heard_ms: int | None = None
    boot: str = ""
    boot_before: str = ""
    two_agents_ms: int | None = None
    temp_mc: int | None = None
    forecast_mc: int = 0
    slope_uc_per_s: int = 0
    still_ms: int = 0
    sampled_ms: int = 0
    ram_used_mb: int = 0
    ram_total_mb: int = 0
    cpu_permille: int = 0
    throttled: int = 0
    calm_samples: int = 0
    backed_off: tuple[Mark, ...] = ()
    work_read: str = ""
    inventory_known: bool = False
    installed: dict[str, Installed] = {}
    resident: dict[str, Resident] = {}
    assignments: dict[str, Assignment] = {}
    used_ms: dict[str, int] = {}
    unload_ordered_ms: dict[str, int] = {}
    load_failed_ms: dict[str, int] = {}
    sessions: dict[str, tuple[str, ...]] = {}
    suspects: tuple[str, ...] = ()
    opened_ms: int | None = None
    open_ms: int = 0
    trips: int = 0
    ramp: int | None = None
    left_out: int = 0
    left_out_why: str = ""
    remote: tuple[str, ...] = ()
    sensor: str = ""
    most_models: int = 0
    most_models_ms: int = 0
    failed_ms: int | None = None
    engine: str = ""
    leaving: bool = False
    left: bool = False
    rest: Rest | None = None
    disk: DiskWork | None = None

    def keeps(self, model: str) -> bool:
        """Whether the model is on disk, and is not about to go."""
        disk = self.disk
        goes = disk is not None and (disk.op, disk.model) == ("remove", model)
        return model in self.installed and not goes

    def has(self, model: str) -> bool:
        """Whether the model is in memory, or an assignment brings it there."""
        return model in self.resident or any(held.model == model for held in self.assignments.values())


MAX_FAILURES = 32
"""So many failures of a request are remembered."""


class Failure(Struct, frozen=True):
    """Why an attempt did not answer, and when that was known."""

    node: str
    code: str
    blame: Blame
    source: str = ""
    at_ms: int = 0


class Request(Struct, frozen=True):
    """An open request. `work_id` is the current attempt's fence, empty while it waits. `rested_ms`: for how
    long it has waited for nodes that rest; by `put_off_ms` of that, `deadline_ms` was put off."""

    entry_id: str
    kind: RequestKind
    model: str
    tier: int
    priority: int
    stream: bool
    session: str
    accepted: int
    accepted_ms: int
    deadline_ms: int
    body_bytes: int
    prompt_tokens: int
    num_predict: int
    attempt: int = 0
    node: str = ""
    work_id: str = ""
    started: bool = False
    deferred: WaitKind = WaitKind.NONE
    body_lost: bool = False
    num_ctx: int = 0
    runner: str = ""
    failures: tuple[Failure, ...] = ()
    ignored: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    notify: bool = False
    parts: tuple[str, ...] = ()
    rested_ms: int = 0
    put_off_ms: int = 0


class Closed(Struct, frozen=True):
    """A remembered terminal state and where its reply stands."""

    state: RequestState
    reply_id: str
    closed_ms: int


class Speed(Struct, frozen=True, gc=False):
    """What completions taught about a model on a node; 0 means nothing yet. Medians of the last samples
    (`loads`, `prefills`, `decodes`, in the same units), the newest of which came at `at_ms`."""

    load_ms: int = 0
    prefill_us_per_token: int = 0
    decode_us_per_token: int = 0
    at_ms: int = 0
    loads: tuple[int, ...] = ()
    prefills: tuple[int, ...] = ()
    decodes: tuple[int, ...] = ()


class Length(Struct, frozen=True):
    """The mean answer of a model in thousandths of a token, over so many answers: all of the first ones,
    later a moving average."""

    milli: int
    answers: int


class Demand(Struct, frozen=True):
    """How much a model was asked for of late: requests in thousandths, halved every
    policy.demand_half_ms, as of `at_ms`."""

    milli: int
    at_ms: int


FootprintKey = tuple[str, int, int]
"""Digest, context length and slots: what a runner's memory depends on."""


def client_of(request: str) -> str:
    """Return the client of a request's key "client/id"."""
    return request.partition("/")[0]


class Grid(Struct):
    """Everything the log says at `position`. `at_ms` is grid time, `number` that of the last logged
    commit, `before_ms` the time of the one before; `jumped`: between the two nobody knows how much time has
    passed, as after a power cut; `closed` by client and request, oldest first; `speeds` by
    node and model; `answers` the mean answer in tokens by model; `footprints` the memory that a runner was
    seen to take, in MB; `described` models by digest; `guests` the clients that the gateway added;
    `zone_s` how far local time is ahead of UTC, in seconds."""

    position: int = 0
    number: int = 0
    at_ms: int = 0
    before_ms: int = 0
    server_ms: int = 0
    revision: int = 0
    policy_id: str = ""
    policy: Policy = Policy()
    decider: int = 1
    inherited: bool = False
    models: dict[str, ModelRules] = {}
    clients: dict[str, ClientRules] = {}
    nodes: dict[str, Node] = {}
    open: dict[str, Request] = {}
    closed: dict[str, dict[str, Closed]] = {}
    speeds: dict[tuple[str, str], Speed] = {}
    answers: dict[str, Length] = {}
    footprints: dict[FootprintKey, int] = {}
    demand: dict[str, Demand] = {}
    described: dict[str, Description] = {}
    guests: dict[str, ClientRules] = {}
    zone_s: int = 0
    jumped: bool = False

    def copy(self) -> Grid:
        """Return a working copy that its owner may fold into; the rows are shared."""
        return msgspec.structs.replace(
            self,
            nodes=self.nodes.copy(),
            open=self.open.copy(),
            closed={client: rows.copy() for client, rows in self.closed.items()},
            speeds=self.speeds.copy(),
            answers=self.answers.copy(),
            footprints=self.footprints.copy(),
            demand=self.demand.copy(),
            described=self.described.copy(),
        )

    def find_closed(self, request: str) -> Closed | None:
        """Return the remembered end of a request, or None."""
        return self.closed.get(client_of(request), {}).get(request)

    def rules_of(self, client: str) -> ClientRules:
        """Return the rules of a client: those of streams.toml, else a guest's, else the default ones."""
        return self.clients.get(client) or self.guests.get(client, UNLISTED)

    def all_clients(self, named: Iterable[str]) -> list[str]:
        """List the clients that are read: those that a router's streams.toml names, then the guests."""
        return list(dict.fromkeys((*named, *self.guests)))

    def draft(self) -> Grid:
        """Return a working copy for `decide`, which neither reads closed requests nor learns speeds."""
        return msgspec.structs.replace(self, nodes=self.nodes.copy(), open=self.open.copy(), closed={})


def parse_stream_id(entry_id: str) -> tuple[int, int]:
    """Return a stream id "ms-n" as numbers that compare as Redis does; the empty id is before all."""
    ms, _, n = entry_id.partition("-")
    return (int(ms or 0), int(n or 0))


def without(table: dict[str, T], name: str) -> dict[str, T]:
    """Return the table without one of its names; the same one if it has none such."""
    return {key: row for key, row in table.items() if key != name} if name in table else table
