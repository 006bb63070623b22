"""Entries of the input streams to events. Pure: what an entry means depends on the grid and the entry.

Nothing is dropped silently and nothing loops: an entry that cannot be read becomes `input.rejected`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, structs

from orion_streams.decider.route import Reject, route
from orion_streams.errors import ContractError
from orion_streams.model import events as ev
from orion_streams.model.measured import Sample, Usage
from orion_streams.model.names import full_model_name, near_names, same_name
from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Grid, Load, Node, Request, Run, parse_stream_id
from orion_streams.model.vocabulary import Blame, Code, RequestKind
from orion_streams.projections import requests
from orion_streams.protocol import agent_entries, requests_replies

Fields = Mapping[bytes, bytes]


class Entry(Struct, frozen=True):
    """An input entry: `source` is requests, health or results, `owner` the client or node.
    `age_ms`: how old it was when it was read, by the server's clock."""

    source: str
    owner: str
    id: str
    fields: dict[bytes, bytes]
    age_ms: int = 0

    @property
    def stream(self) -> str:
        """Return the stream's name without prefix."""
        return f"{self.source}:{self.owner}"


class Token(Struct, frozen=True):
    """A piece of an answer, to be passed on without an event."""

    request: str
    attempt: int
    work_id: str
    seq: int
    text: bytes


class Taken(Struct, frozen=True):
    """What an entry means: events in order, or a token. `reply_to` and `message` belong to a reply that
    an event does not hold: the client's request id, a sentence. `answer`: body fields of a result."""

    events: tuple[ev.AnyEvent, ...] = ()
    token: Token | None = None
    reply_to: str = ""
    message: str = ""
    answer: Fields = {}


NOTHING = Taken()


def take(
    grid: Grid,
    entry: Entry,
    *,
    results_cursor: str,
    relayed: Mapping[str, int],
    entry_max_bytes: int,
    answer_max_bytes: int,
) -> Taken:
    """Return what the entry means to this grid. `results_cursor`: the last entry taken of the node's
    results. `relayed`: the last token passed on of each open attempt. An agent's entry is a head and at
    most an answer."""
    match entry.source:
        case "requests":
            return take_request(grid, entry, entry_max_bytes)
        case "health":
            return take_health(grid, entry, results_cursor, entry_max_bytes + answer_max_bytes)
        case "results":
            return take_result(grid, entry, relayed, entry_max_bytes + answer_max_bytes)
        case _:
            raise ValueError(f"no such input: {entry.source}")


def take_request(grid: Grid, entry: Entry, entry_max_bytes: int) -> Taken:
    """Take a request or a cancel of a client."""
    reply_to = requests_replies.request_id(entry.fields, entry.id)
    try:
        size = size_of(entry)
        if size > entry_max_bytes:
            raise ContractError("too_large", f"{size} bytes; at most {entry_max_bytes}")
        fields = requests_replies.decode_fields(entry.fields)
        if "cancel" in fields:
            return take_cancel(grid, f"{entry.owner}/{fields['cancel']}", fields["cancel"])
        request = requests_replies.parse_request(fields)
        if request.deadline_ms > grid.policy.max_deadline_ms:
            limit = grid.policy.max_deadline_ms
            raise ContractError("bad_field", f"deadline_ms: expected at most {limit}")
    except ContractError as error:
        rejected = ev.InputRejected(stream=entry.stream, entry_id=entry.id, code=error.code)
        return Taken((rejected,), reply_to=reply_to, message=str(error))
    return admit(grid, entry, request, size, reply_to)


def size_of(entry: Entry) -> int:
    """Return the bytes of an entry's names and values."""
    return sum(len(name) + len(value) for name, value in entry.fields.items())


def take_cancel(grid: Grid, key: str, reply_to: str) -> Taken:
    """Take a cancel: end an open request, answer a closed one as known. Raises ContractError unknown_id."""
    if key in grid.open:
        return Taken((ev.RequestCancelled(key),), reply_to=reply_to)
    if grid.find_closed(key) is not None:
        return Taken((ev.RequestResent(key),), reply_to=reply_to)
    raise ContractError("unknown_id", requests_replies.CODES["unknown_id"])


def admit(
    grid: Grid, entry: Entry, request: requests_replies.RequestEntry, size: int, reply_to: str
) -> Taken:
    """Accept or reject a readable request, or answer it as known."""
    model = installed_name(grid, full_model_name(request.model))
    num_ctx, runner = runner_options(grid, model, request.options or {})
    key = f"{entry.owner}/{reply_to}"
    if key in grid.open or grid.find_closed(key) is not None:
        return Taken((ev.RequestResent(key),), reply_to=reply_to)
    accepted = ev.RequestAccepted(
        request=key,
        entry_id=entry.id,
        kind=RequestKind(requests_replies.kind_of(request)),
        model=model,
        deadline_ms=request.deadline_ms or grid.policy.default_deadline_ms,
        body_bytes=size,
        prompt_tokens=size // 4 + 1,
        num_predict=num_predict(request),
        tier=request.tier,
        priority=request.priority,
        stream=request.stream,
        session=request.session,
        age_ms=entry.age_ms,
        num_ctx=num_ctx,
        runner=runner,
    )
    code, message = "", ""
    if has_too_many(grid, entry.owner):
        code, message = "queue_full", requests_replies.CODES["queue_full"]
    else:
        code, message = hopeless(grid, requests.row_of(grid, accepted))
    if code:
        return Taken((ev.RequestRejected(key, code),), reply_to=reply_to, message=message)
    return Taken((accepted,), reply_to=reply_to)


def installed_name(grid: Grid, model: str) -> str:
    """Return the name under which nodes have the model, in whatever case it was asked for."""
    nodes = grid.nodes.values()
    if any(model in node.installed for node in nodes):
        return model
    return same_name(model, {name for node in nodes for name in node.installed})


def has_too_many(grid: Grid, client: str) -> bool:
    """Whether the client has `max_open` requests open; each client has a room of its own."""
    limit, owner = grid.policy.max_open, f"{client}/"
    return len(grid.open) >= limit and sum(key.startswith(owner) for key in grid.open) >= limit


def hopeless(grid: Grid, request: Request) -> tuple[str, str]:
    """Return a code and a sentence with figures when no node will ever take the request, else ""."""
    fits = (node.resident.get(request.model) for node in grid.nodes.values() if node.rules.takes_inference)
    if any(row is not None and row.serves(request) for row in fits):
        return "", ""  # it is in memory: nothing needs to be worked out
    decision = route(grid, request)
    if not isinstance(decision, Reject):
        return "", ""
    sizes = ", ".join(
        f"{each.node} has room for {each.limit} MB and it needs {each.value} MB"
        for each in decision.verdicts
        if each.filter == "too_large"
    )
    elsewhere = [name for name, node in grid.nodes.items() if request.model in node.remote]
    words = requests_replies.CODES[decision.code] + (f" {sizes}." if sizes else "")
    if elsewhere:
        words += f" {', '.join(elsewhere)} would ask it outside this house: that is never done."
    elif decision.code == Code.UNKNOWN_MODEL:
        words += f" {missing(grid, request.model)}"
    return decision.code, words


def missing(grid: Grid, model: str) -> str:
    """Say what is near to a model that nobody has, and how a node gets it."""
    nodes = [node for node in grid.nodes.values() if node.rules.takes_inference]
    near = near_names(model, {name for node in nodes for name in node.installed})
    where = ", ".join(sorted(node.rules.name for node in nodes if model not in node.installed))
    hint = f"did you mean {' or '.join(near)}? Else" if near else "To have it"
    return f"{hint}: ollama pull {model} on {where}." if where else ""


def runner_options(grid: Grid, model: str, options: Mapping[str, Any]) -> tuple[int, str]:
    """Return the runner that the request needs: its context length, and the options beside it. What
    streams.toml pins holds whatever a request asks for; a thread count that is not pinned is Ollama's
    choice."""
    rules = grid.models.get(same_name(model, grid.models), NO_RULES)
    return rules.num_ctx or options.get("num_ctx") or grid.policy.num_ctx, rules.runner


def num_predict(request: requests_replies.RequestEntry) -> int:
    """Return the limit in tokens that the options ask for; 0 for none."""
    asked = (request.options or {}).get("num_predict")
    return asked if isinstance(asked, int) and 0 < asked < 1_000_000_000 else 0


def take_health(grid: Grid, entry: Entry, results_cursor: str, max_bytes: int) -> Taken:
    """Take a node's complete health: the sample, and loads and unloads derived from what changed."""
    if size_of(entry) > max_bytes:
        return unreadable(entry, "too_large")
    node = grid.nodes.get(entry.owner)
    try:
        head = agent_entries.decode_health(entry.fields.get(b"head", b""))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return unreadable(entry)
    if node is None:
        return NOTHING
    models = inventory_changes(node, entry.owner, head)
    digest = inventory_digest(head.inventory) if head.inventory is not None else known_digest(node)
    sampled = ev.NodeSampled(
        node=entry.owner,
        boot=head.boot,
        sampled_ms=head.sampled_ms,
        age_ms=entry.age_ms,
        **Sample.of(head).fields(),
        work_read=head.work_read,
        in_hand=head.in_hand,
        settled=parse_stream_id(head.results_written) <= parse_stream_id(results_cursor),
        inventory_known=bool(head.inventory_digest) and digest == head.inventory_digest,
        left_out=head.left_out,
        left_out_why=head.left_out_why,
        remote=head.remote,
        sensor=head.sensor,
    )
    return Taken((sampled, *models, *residency_changes(node, entry.owner, head)))


def inventory_digest(models: tuple[agent_entries.InstalledModel, ...]) -> str:
    """Return a name for a list of installed models, in whatever order it comes."""
    rows = sorted(f"{row.name} {row.digest} {row.size_mb}" for row in models)
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=8).hexdigest()


def known_digest(node: Node) -> str:
    """Return the digest of the models that the grid believes to be installed."""
    rows = (agent_entries.InstalledModel(n, row.digest, row.size_mb) for n, row in node.installed.items())
    return inventory_digest(tuple(rows))


def inventory_changes(node: Node, name: str, head: agent_entries.HealthHead) -> list[ev.AnyEvent]:
    """Return installed and removed models, if the entry holds the list."""
    if head.inventory is None:
        return []
    there = {row.name: row for row in head.inventory}
    changes: list[ev.AnyEvent] = [
        ev.ModelRemoved(name, model) for model in node.installed if model not in there
    ]
    for model, row in there.items():
        before = node.installed.get(model)
        if before is None or (before.digest, before.size_mb) != (row.digest, row.size_mb):
            changes.append(ev.ModelInstalled(name, model, row.digest, row.size_mb))
    return changes


def residency_changes(node: Node, name: str, head: agent_entries.HealthHead) -> list[ev.AnyEvent]:
    """Return loaded and unloaded models. Another context length is another runner, so a new load."""
    there = {row.name: row for row in head.resident}
    changes: list[ev.AnyEvent] = [
        ev.ModelUnloaded(name, model) for model in node.resident if model not in there
    ]
    for model, row in there.items():
        before = node.resident.get(model)
        if before is None or (before.digest, before.size_mb, before.context_length) != (
            row.digest,
            row.size_mb,
            row.context_length,
        ):
            loaded = ev.ModelLoaded(name, model, row.digest, row.size_mb, row.context_length)
            changes.append(loaded)
    return changes


def take_result(grid: Grid, entry: Entry, relayed: Mapping[str, int], max_bytes: int) -> Taken:
    """Take an agent's result. Only that of the current attempt, by its fence, moves its request."""
    try:
        head = agent_entries.decode_result(entry.fields.get(b"head", b""))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return unreadable(entry)
    if size_of(entry) > max_bytes:  # a token never becomes an event
        return NOTHING if head.op == "tokens" else unreadable(entry, "too_large")
    if not head.request:
        return take_load(grid, entry.owner, head)
    request = grid.open.get(head.request)
    if request is None or request.work_id != head.work_id or request.node != entry.owner:
        return take_late_result(grid, entry.owner, head)
    match head.op:
        case "tokens":
            if head.seq != relayed.get(head.work_id, 0) + 1:
                return NOTHING  # resent, or the one before it is still to come again
            text = entry.fields.get(b"text", b"")
            return Taken(token=Token(head.request, request.attempt, head.work_id, head.seq, text))
        case "started":
            started = ev.RequestStarted(head.request, request.attempt, head.work_id, age_ms=entry.age_ms)
            return NOTHING if request.started else Taken((started,))
        case "completed":
            completed = completion(grid, entry.owner, head, request)
            return Taken((completed,), answer=entry.fields)
        case "failed":
            failed = ev.AttemptFailed(
                request=head.request,
                attempt=request.attempt,
                node=entry.owner,
                work_id=head.work_id,
                code=head.code,
                blame=Blame(head.blame),
                source=entry.id,
            )
            return Taken((failed,))


def take_load(grid: Grid, node: str, head: agent_entries.ResultHead) -> Taken:
    """Take the end of an ordered load, once."""
    known = grid.nodes.get(node)
    held = known.assignments.get(head.work_id) if known is not None else None
    if not isinstance(held, Load) or head.op not in ("completed", "failed"):
        return NOTHING
    ended = ev.LoadEnded(
        node=node,
        model=held.model,
        work_id=head.work_id,
        ok=head.op == "completed",
        load_ms=head.load_ms,
        alone=held.alone,
    )
    return Taken((ended,))


def take_late_result(grid: Grid, node: str, head: agent_entries.ResultHead) -> Taken:
    """Take a result of an attempt that was given up: it only frees the slot, once."""
    known = grid.nodes.get(node)
    over = head.op in ("completed", "failed")
    if not over or known is None or not isinstance(known.assignments.get(head.work_id), Run):
        return NOTHING
    outcome = head.code or head.op
    return Taken((ev.AttemptEnded(head.request, head.attempt, node, head.work_id, outcome),))


def completion(
    grid: Grid, node: str, head: agent_entries.ResultHead, request: Request
) -> ev.RequestCompleted:
    """Return the terminal event of an answer."""
    known = grid.nodes.get(node)
    held = known.assignments.get(head.work_id) if known is not None else None
    usage = Usage.of(head)
    if not usage.done_reason:
        usage = structs.replace(usage, done_reason="stop")
    return ev.RequestCompleted(
        request=head.request,
        attempt=request.attempt,
        node=node,
        work_id=head.work_id,
        **usage.fields(),
        cold=isinstance(held, Run) and held.cold,
        alone=held is not None and held.alone,
    )


def unreadable(entry: Entry, code: str = "unreadable") -> Taken:
    """Reject an agent's entry that cannot be read."""
    return Taken((ev.InputRejected(stream=entry.stream, entry_id=entry.id, code=code),))
