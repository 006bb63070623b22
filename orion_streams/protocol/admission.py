"""Clients' entries to events: a request is accepted or rejected, a cancel ends one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orion_streams.decider.filters import missing_capabilities
from orion_streams.decider.memory import default_num_ctx, descriptions, serves, wanted_num_ctx
from orion_streams.decider.route import Reject, route
from orion_streams.errors import ContractError
from orion_streams.model import events as ev
from orion_streams.model.names import full_model_name, is_cloud, near_names, same_name
from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Grid, Node, Request
from orion_streams.model.vocabulary import Code, RequestKind
from orion_streams.projections import requests
from orion_streams.protocol import photo_parts, requests_replies
from orion_streams.protocol.disk_entries import cancelled_disk, take_disk
from orion_streams.protocol.guest_entries import take_guest
from orion_streams.protocol.input_entries import Entry, Taken, size_of
from orion_streams.protocol.rest_entries import take_rest


def take_request(
    grid: Grid, entry: Entry, entry_max_bytes: int, drain_ms: int, pull_from: tuple[str, ...] = ()
) -> Taken:
    """Take a request or a cancel of a client, or what an operator or the gateway wants."""
    reply_to = requests_replies.request_id(entry.fields, entry.id)
    try:
        size = size_of(entry)
        if size > entry_max_bytes:
            raise ContractError(
                "too_large", f"{size} bytes; at most {entry_max_bytes} (limits.entry_max_bytes)"
            )
        fields = requests_replies.decode_fields(entry.fields)
        if "cancel" in fields:
            return take_cancel(grid, entry.owner, fields, reply_to)
        if "list" in fields:
            return take_list(grid, entry.owner, reply_to)
        if "drain" in fields or "resume" in fields:
            check_operator(grid, entry.owner)
            return Taken(take_rest(grid, entry.owner, fields, drain_ms), reply_to=reply_to)
        if "pull" in fields or "remove" in fields:
            check_operator(grid, entry.owner)
            events = take_disk(grid, entry.owner, fields, reply_to, pull_from)
            return Taken(events, reply_to=reply_to)
        if "guest" in fields or "remove_guest" in fields:
            return take_guest(grid, entry.owner, fields, reply_to)
        request = requests_replies.parse_request(fields)
        check_limits(grid, entry.owner, request, size + photo_parts.size_of(request.parts or ()))
    except ContractError as error:
        rejected = ev.InputRejected(stream=entry.stream, entry_id=entry.id, code=error.code)
        ignored = requests_replies.unknown_fields(entry.fields)
        model = requests_replies.model_of(entry.fields)
        return Taken((rejected,), reply_to=reply_to, model=model, message=str(error), ignored=ignored)
    return admit(grid, entry, request, size, reply_to)


def take_cancel(grid: Grid, client: str, fields: Mapping[str, str], reply_to: str) -> Taken:
    """Take a cancel: end an open request of its own, answer a closed one as known. With the field `client`
    it is an operator's. Raises ContractError unknown_id, not_allowed."""
    operator = client if "client" in fields else ""
    key = f"{fields.get('client', client)}/{fields['cancel']}"
    if operator:
        check_operator(grid, client)
    if (disk := cancelled_disk(grid, key, operator)) is not None:
        return Taken((disk,), reply_to=reply_to)
    if key in grid.open:
        return Taken((ev.RequestCancelled(key, by=operator),), reply_to=reply_to)
    if not operator and grid.find_closed(key) is not None:
        return Taken((ev.RequestResent(key),), reply_to=reply_to)
    raise ContractError("unknown_id", requests_replies.CODES["unknown_id"])


def take_list(grid: Grid, client: str, reply_to: str) -> Taken:
    """Take an operator's question which requests are open. Raises ContractError not_allowed."""
    check_operator(grid, client)
    return Taken((ev.RequestsListed(client),), reply_to=reply_to)


def check_operator(grid: Grid, client: str) -> None:
    """Raise ContractError unless the client may do more than ask for itself."""
    if not grid.rules_of(client).operator:
        raise ContractError("not_allowed", f"clients.{client}: {requests_replies.CODES['not_allowed']}")


def check_limits(grid: Grid, client: str, request: requests_replies.RequestEntry, size: int) -> None:
    """Raise ContractError for what the grid, or this client's rules, never allow."""
    rules = grid.rules_of(client)
    if size > rules.max_open_bytes:
        what = f"{size} bytes; at most {rules.max_open_bytes} (clients.{client}.max_open_bytes)"
        raise ContractError("too_large", what)
    if request.deadline_ms > grid.policy.max_deadline_ms:
        limit = grid.policy.max_deadline_ms
        raise ContractError("bad_field", f"deadline_ms: expected at most {limit}")
    if request.priority > rules.max_priority:
        what = f"priority: expected at most {rules.max_priority} (clients.{client}.max_priority)"
        raise ContractError("bad_field", what)


def admit(
    grid: Grid, entry: Entry, request: requests_replies.RequestEntry, size: int, reply_to: str
) -> Taken:
    """Accept or reject a readable request, or answer it as known."""
    model = installed_name(grid, full_model_name(request.model))
    asked = request.options or {}
    num_ctx, runner = runner_options(grid, model, asked)
    wanted = asked.get("num_ctx")
    unheeded = (requests.NUM_CTX,) if isinstance(wanted, int) and wanted > num_ctx else ()
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
        ignored=(*requests_replies.unknown_fields(entry.fields), *unheeded),
        needs=needs_of(request),
        notify=request.notify,
        parts=tuple(request.parts or ()),
    )
    whole = size + photo_parts.size_of(accepted.parts)
    code, message = "queue_full", what_is_full(grid, entry.owner, whole)
    if not message:
        code, message = hopeless(grid, requests.row_of(grid, accepted))
    if code:
        rejected = ev.RequestRejected(key, code)
        return Taken(
            (rejected,),
            reply_to=reply_to,
            model=model,
            message=message,
            ignored=accepted.ignored,
            parts=accepted.parts,
        )
    return Taken((accepted,), reply_to=reply_to)


def installed_name(grid: Grid, model: str) -> str:
    """Return the name under which nodes have the model, in whatever case it was asked for."""
    nodes = grid.nodes.values()
    if any(model in node.installed for node in nodes):
        return model
    return same_name(model, {name for node in nodes for name in node.installed})


def what_is_full(grid: Grid, client: str, size: int) -> str:
    """Say which limit of the client another request of `size` bytes, its parts among them, would exceed; ""
    if none. Each client has a room of its own."""
    rules, owner = grid.rules_of(client), f"{client}/"
    limit = rules.max_open or grid.policy.max_open
    rows = (row for key, row in grid.open.items() if key.startswith(owner))
    sizes = [row.body_bytes + photo_parts.size_of(row.parts) for row in rows]
    if len(sizes) >= limit:
        return f"{requests_replies.CODES['queue_full']} It has {len(sizes)} of {limit}."
    if sum(sizes) + size > rules.max_open_bytes:
        taken = f"{sum(sizes)} of {rules.max_open_bytes} bytes"
        return f"{requests_replies.CODES['queue_full']} They take {taken}, and this one {size}."
    return ""


def hopeless(grid: Grid, request: Request) -> tuple[str, str]:
    """Return a code and a sentence with figures when no node will ever take the request, else ""."""
    if is_cloud(request.model):  # whatever a node lists
        return Code.UNKNOWN_MODEL, f"{requests_replies.CODES[Code.UNKNOWN_MODEL]} {outside(grid, request)}"
    if any(is_ready(grid, node, request) for node in grid.nodes.values()):
        return "", ""  # nothing needs to be worked out
    decision = route(grid, request)
    return (decision.code, why_never(grid, request, decision)) if isinstance(decision, Reject) else ("", "")


def outside(grid: Grid, request: Request) -> str:
    """Say who would ask the model outside this house; "" if nobody would."""
    names = [name for name, node in grid.nodes.items() if request.model in node.remote]
    if not names and not is_cloud(request.model):
        return ""
    return f"{', '.join(names) or 'Ollama'} would ask it outside this house: that is never done."


def why_never(grid: Grid, request: Request, decision: Reject) -> str:
    """Say why no node will ever take the request, with figures and what would mend it."""
    sizes = ", ".join(
        f"{each.node} has room for {each.limit} MB and it needs {each.value} MB"
        for each in decision.verdicts
        if each.filter == "too_large"
    )
    words = requests_replies.CODES[decision.code] + (f" {sizes}." if sizes else "")
    if elsewhere := outside(grid, request):
        words += f" {elsewhere}"
    elif decision.code == Code.UNKNOWN_MODEL:
        words += f" {missing(grid, request.model)}"
    elif decision.code == Code.INCAPABLE:
        nodes = [node for node in grid.nodes.values() if request.model in node.installed]
        lacks = {each for node in nodes for each in missing_capabilities(grid, node, request)}
        words += f" {request.model} lacks: {', '.join(sorted(lacks))}."
    return words


def is_ready(grid: Grid, node: Node, request: Request) -> bool:
    """Whether the node has a runner in memory that serves the request, and can do what it asks for."""
    row = node.resident.get(request.model)
    if row is None or not node.rules.takes_inference or request.model not in node.installed:
        return False
    num_ctx = wanted_num_ctx(grid, node, request)
    return serves(grid, row, num_ctx, request.runner) and not missing_capabilities(grid, node, request)


def needs_of(request: requests_replies.RequestEntry) -> tuple[str, ...]:
    """Return what the model must be able to do, in Ollama's words; to go from memory, nothing."""
    if requests_replies.kind_of(request) == "embed":
        return ("embedding",)
    if requests_replies.unloads(request):
        return ()
    images = requests_replies.images_of(request)
    wanted = {"vision": images, "tools": request.tools, "thinking": request.think}
    return ("completion", *(name for name, is_wanted in wanted.items() if is_wanted))


def missing(grid: Grid, model: str) -> str:
    """Say what is near to a model that nobody has, and how a node gets it."""
    nodes = [node for node in grid.nodes.values() if node.rules.takes_inference]
    near = near_names(model, {name for node in nodes for name in node.installed})
    where = ", ".join(sorted(node.rules.name for node in nodes if model not in node.installed))
    hint = f"did you mean {' or '.join(near)}? Else" if near else "To have it"
    return f"{hint}: ollama pull {model} on {where}." if where else ""


def runner_options(grid: Grid, model: str, options: Mapping[str, Any]) -> tuple[int, str]:
    """Return the runner that the request needs: its context length, and the options beside it. What
    streams.toml pins holds whatever a request asks for, and so do `max_num_ctx` and what the model was
    trained for; a thread count that is not pinned is Ollama's choice."""
    model = same_name(model, grid.models)
    rules = grid.models.get(model, NO_RULES)
    num_ctx = rules.num_ctx or options.get("num_ctx") or default_num_ctx(grid, model)
    trained = max((row.context_length for row in descriptions(grid, model)), default=0)
    limits = [limit for limit in (rules.max_num_ctx, trained) if limit]
    return min([num_ctx, *limits]), rules.runner


def num_predict(request: requests_replies.RequestEntry) -> int:
    """Return the limit in tokens that the options ask for; 0 for none."""
    asked = (request.options or {}).get("num_predict")
    return asked if isinstance(asked, int) and 0 < asked < 1_000_000_000 else 0
