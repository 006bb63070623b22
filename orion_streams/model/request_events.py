"""Events about requests and their attempts, and about the clients that they come from."""

from __future__ import annotations

from orion_streams.model.log_events import Event
from orion_streams.model.policy import ClientRules
from orion_streams.model.verdict import Verdict
from orion_streams.model.vocabulary import AbandonReason, Blame, RequestKind, WaitKind


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
