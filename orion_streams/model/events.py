"""The vocabulary of the log: what happened, past tense, frozen, one JSON object per entry.

A published event is never edited: a new field gets a default, a new meaning gets a new event. No event
holds a prompt or an answer. `request` is always "client/id". Times: `*_ms` durations, `age_ms` how old an
input was when it was taken; absolute times exist only as `server_ms` of a commit's head.
"""

from __future__ import annotations

from msgspec import Struct

from orion_streams.model.description import Description
from orion_streams.model.policy import ClientRules, ModelRules, NodeRules, Policy
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, Blame, Mark, RequestKind, UnloadReason, WaitKind


class Event(Struct, frozen=True, omit_defaults=True, tag_field="event"):
    """Base of all events."""


class Committed(Event, frozen=True, tag="committed"):
    """The head of every commit that logs anything; the `inputs` events after it are what was taken,
    the rest is what `decide` answered. `hash` is the running hash of the log before this entry."""

    number: int
    server_ms: int
    inputs: int
    decided: bool
    hash: str


class PolicyChanged(Event, frozen=True, tag="policy.changed"):
    """From here on these rules hold, and this version of the code decides. `inherited`: the rules are those
    that an older version had put into force."""

    revision: int
    policy_id: str
    policy: Policy
    nodes: tuple[NodeRules, ...]
    models: dict[str, ModelRules] = {}
    decider: int = 1
    clients: dict[str, ClientRules] = {}
    inherited: bool = False


class NodeSampled(Event, frozen=True, tag="node.sampled"):
    """A node's health entry. `temp_mc` is None where no sensor exists. `in_hand` are the work ids that
    the agent holds, `work_read` the last one it has read; `settled`: all results that it had written by
    then were taken before. `inventory_known`: its list of models is what the log says.
    `left_out`: rows of Ollama's lists that could not be used, and why the first; `remote`: models that run
    elsewhere; `sensor`: where the temperature comes from, or why there is none, and `engine`, what runs
    the models, now and then. `leaving`: its agent begins nothing more; `goodbye`: this boot's last entry,
    after which it reads nothing."""

    node: str
    boot: str
    sampled_ms: int
    temp_mc: int | None
    ram_used_mb: int
    ram_total_mb: int
    cpu_permille: int
    age_ms: int = 0
    throttled: int = 0
    work_read: str = ""
    in_hand: tuple[str, ...] = ()
    settled: bool = True
    inventory_known: bool = True
    left_out: int = 0
    left_out_why: str = ""
    remote: tuple[str, ...] = ()
    sensor: str = ""
    engine: str = ""
    leaving: bool = False
    goodbye: bool = False


class NodeBackedOff(Event, frozen=True, tag="node.backed_off"):
    """A safety mark was passed: the node takes nothing until it returns."""

    node: str
    reason: Mark
    value: int
    mark: int


class NodeReturned(Event, frozen=True, tag="node.returned"):
    """Below the lower marks for enough samples in a row."""

    node: str


class NodeDrained(Event, frozen=True, tag="node.drained"):
    """The operator `by` lets the node rest, for `for_ms` of grid time (0: until it is resumed): it takes
    nothing, what waits there is moved at once, and what runs after `drain_ms`. Again: it begins anew."""

    node: str
    by: str
    for_ms: int = 0
    drain_ms: int = 0
    reply_id: str = ""


class NodeResumed(Event, frozen=True, tag="node.resumed"):
    """The node's rest is over: the operator `by` ended it, or its time has passed."""

    node: str
    by: str = ""
    reply_id: str = ""


class ZoneChanged(Event, frozen=True, tag="zone.changed"):
    """From here on the router's local time is so many seconds ahead of UTC: quiet hours go by it."""

    offset_s: int


class ModelInstalled(Event, frozen=True, tag="model.installed"):
    """Ollama on this node has the model on disk."""

    node: str
    model: str
    digest: str
    size_mb: int


class ModelRemoved(Event, frozen=True, tag="model.removed"):
    """No longer on this node's disk."""

    node: str
    model: str


class ModelDescribed(Event, frozen=True, tag="model.described"):
    """What a node's Ollama says of the model with this digest, once for all nodes."""

    node: str
    model: str
    digest: str
    about: Description


class ModelLoaded(Event, frozen=True, tag="model.loaded"):
    """The model is in this node's memory, with this context length."""

    node: str
    model: str
    digest: str
    size_mb: int
    context_length: int = 0


class ModelUnloaded(Event, frozen=True, tag="model.unloaded"):
    """The model left this node's memory."""

    node: str
    model: str


class UnloadOrdered(Event, frozen=True, tag="model.unload_ordered"):
    """A node is told to let go of an idle model; `model.unloaded` shows it done. `reason`: relief (it is
    out of memory), room (for what is loaded next)."""

    node: str
    model: str
    reason: UnloadReason = UnloadReason.RELIEF


class LoadOrdered(Event, frozen=True, tag="model.load_ordered"):
    """An idle node is told to load what the plan wants there. `runner`: its options beside num_ctx."""

    node: str
    model: str
    num_ctx: int
    runner: str
    load_ms: int
    reserve_mb: int
    work_id: str = ""


class LoadEnded(Event, frozen=True, tag="model.load_ended"):
    """What came of an ordered load. `alone`: nothing else ran on the node meanwhile."""

    node: str
    model: str
    work_id: str
    ok: bool
    load_ms: int = 0
    alone: bool = False


class BreakerOpened(Event, frozen=True, tag="node.breaker_opened"):
    """So many requests in a row failed on the node: it gets nothing for `open_ms`, then one probe."""

    node: str
    failures: int
    open_ms: int


class BreakerClosed(Event, frozen=True, tag="node.breaker_closed"):
    """The probe was answered: the node takes work again, one run more after each answer."""

    node: str


class InputRejected(Event, frozen=True, tag="input.rejected"):
    """An entry that could not be read; where its client is known, it got one `rejected` reply."""

    stream: str
    entry_id: str
    code: str
    reply_id: str = ""


class RequestRejected(Event, frozen=True, tag="request.rejected"):
    """A readable request that was not accepted; its id is not burnt."""

    request: str
    code: str
    reply_id: str = ""


class RequestResent(Event, frozen=True, tag="request.resent"):
    """A known id came again: nothing started. Once it was closed, a `known` reply names its end."""

    request: str
    reply_id: str = ""


class RequestAccepted(Event, frozen=True, tag="request.accepted"):
    """The grid owes this request one terminal reply. The body stays in the entry `entry_id` of
    `requests:<client>`. `num_predict` 0: no limit asked for. `ignored`: fields that do not exist, or whose
    value did not count. `needs`: what its model must be able to do. `notify`: its client is told where it
    stands. `parts`: the entries of `parts:<client>` that hold its images."""

    request: str
    entry_id: str
    kind: RequestKind
    model: str
    deadline_ms: int
    body_bytes: int
    prompt_tokens: int
    num_predict: int = 0
    tier: int = 0
    priority: int = 0
    stream: bool = True
    session: str = ""
    age_ms: int = 0
    num_ctx: int = 0
    runner: str = ""
    ignored: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    notify: bool = False
    parts: tuple[str, ...] = ()


class RequestRouted(Event, frozen=True, tag="request.routed"):
    """The decision, self-contained. `position`: the log's last entry that it knew. `work_id`: the entry
    of `work:<node>`, the attempt's fence. `reply_id`: where a further attempt was announced. `num_ctx`: the
    context of the runner that it runs on, where it is not what was asked for."""

    request: str
    attempt: int
    node: str
    policy_id: str
    position: int
    verdicts: tuple[Verdict, ...]
    work_id: str = ""
    reply_id: str = ""
    num_ctx: int = 0


class RequestDeferred(Event, frozen=True, tag="request.deferred"):
    """It waits: `busy` for `node`; `quiet` while a node would take it but for its quiet hours, which puts
    its deadline off; `drained` while those that may take it rest; or `no_node` while all are filtered.
    Written when the kind changes."""

    request: str
    kind: WaitKind
    node: str = ""
    verdicts: tuple[Verdict, ...] = ()


class RequestStarted(Event, frozen=True, tag="request.started"):
    """The node's agent handed the attempt to its Ollama."""

    request: str
    attempt: int
    work_id: str
    age_ms: int = 0


class AttemptFailed(Event, frozen=True, tag="attempt.failed"):
    """The current attempt failed; the request is still open. `blame`: request, node or ours.
    `source` is the entry of `results:<node>` that holds the sentence."""

    request: str
    attempt: int
    node: str
    work_id: str
    code: str
    blame: Blame
    source: str = ""


class AttemptEnded(Event, frozen=True, tag="attempt.ended"):
    """A result that changes nothing for a request (superseded, cancelled, expired): its slot is free."""

    request: str
    attempt: int
    node: str
    work_id: str
    outcome: str


class AttemptAbandoned(Event, frozen=True, tag="attempt.abandoned"):
    """The router gives this attempt up: its node no longer has it (`gone`), is `silent`, `left`, too slow
    (`overdue`) or backed off."""

    request: str
    attempt: int
    node: str
    work_id: str
    reason: AbandonReason


class BodyLost(Event, frozen=True, tag="body.lost"):
    """The request's entry is gone from its stream; no further attempt is possible."""

    request: str


class RepliesTrimmed(Event, frozen=True, tag="replies.trimmed"):
    """The client's replies outgrew their limit: those below `min_id` go, and the ids answered there are
    forgotten first."""

    client: str
    min_id: str


class RequestCompleted(Event, frozen=True, tag="request.completed"):
    """Terminal: answered. Durations as the node measured them; `cold`: the model was not resident when
    the attempt was routed; `alone`: nothing else ran on the node meanwhile."""

    request: str
    attempt: int
    node: str
    work_id: str
    tokens: int
    prompt_tokens: int
    load_ms: int
    prefill_ms: int
    decode_ms: int
    total_ms: int
    done_reason: str = "stop"
    cold: bool = False
    alone: bool = False
    reply_id: str = ""
    first_token_ms: int = 0


class RequestFailed(Event, frozen=True, tag="request.failed"):
    """Terminal: error. `code` is stable."""

    request: str
    code: str
    reply_id: str = ""


class RequestExpired(Event, frozen=True, tag="request.expired"):
    """Terminal: the deadline passed."""

    request: str
    reply_id: str = ""


class RequestCancelled(Event, frozen=True, tag="request.cancelled"):
    """Terminal: the client asked for it, or the operator `by`."""

    request: str
    reply_id: str = ""
    by: str = ""


class RequestsListed(Event, frozen=True, tag="requests.listed"):
    """An operator asked which requests are open; its `listed` reply says it."""

    client: str
    reply_id: str = ""


class ClientAdded(Event, frozen=True, tag="client.added"):
    """The gateway added a guest, or gave it other rules: a client that streams.toml does not name."""

    client: str
    rules: ClientRules = ClientRules()
    reply_id: str = ""


class ClientRemoved(Event, frozen=True, tag="client.removed"):
    """The gateway removed a guest: its requests are read no more, those that are open come to their end."""

    client: str
    reply_id: str = ""


AnyEvent = (
    Committed | PolicyChanged | NodeSampled | NodeBackedOff | NodeReturned | ModelInstalled |
    ModelRemoved | ModelDescribed | ModelLoaded | ModelUnloaded | UnloadOrdered | LoadOrdered |
    LoadEnded | BreakerOpened | BreakerClosed | InputRejected | RequestRejected | RequestResent |
    RequestAccepted | RequestRouted | RequestDeferred | RequestStarted | AttemptFailed | AttemptEnded |
    AttemptAbandoned | BodyLost | RepliesTrimmed | RequestCompleted | RequestFailed | RequestExpired |
    RequestCancelled | RequestsListed | ClientAdded | ClientRemoved | NodeDrained | NodeResumed |
    ZoneChanged
)  # fmt: skip
"""Every event; `match` on it ends with `assert_never`."""


def tag_of(event: Event) -> str:
    """Return the event's name in the log."""
    return str(event.__struct_config__.tag)
