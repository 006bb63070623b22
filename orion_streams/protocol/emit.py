"""Events to entries of `work:*` and `replies:*`. Pure: what an event causes, by the grid before it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
from msgspec import structs

from orion_streams.decider.route import Wait, route
from orion_streams.decider.standings import Standing
from orion_streams.model import events as ev
from orion_streams.model.commit import Body
from orion_streams.model.measured import Usage
from orion_streams.model.policy import GATEWAY
from orion_streams.model.state import Grid, Request
from orion_streams.projections.requests import state_of
from orion_streams.protocol import agent_entries, requests_replies
from orion_streams.protocol.disk_replies import on_disk
from orion_streams.protocol.input_entries import Taken, Token
from orion_streams.protocol.out_entries import Out, cancel_run, split
from orion_streams.protocol.replies import LISTED_MAX, Reply, reply_fields


def deliver(grid: Grid, event: ev.AnyEvent, position: int, taken: Taken | None) -> list[Out]:
    """Return what an event causes, which will stand at `position`; `taken` is the input behind it."""
    match event:
        case ev.RequestRouted():
            return work(grid, event, position)
        case ev.RequestCompleted():
            request = grid.open.get(event.request)
            return [done(event, position, taken, request)] if request is not None else []
        case ev.RequestFailed():
            return [error(grid, event, position)]
        case ev.RequestExpired():
            return [expired(grid, event, position), *cancel(grid, event.request)]
        case ev.RequestCancelled():
            return [*cancelled(grid, event, position, taken), *cancel(grid, event.request)]
        case ev.AttemptAbandoned():
            return withdraw(grid, event)
        case ev.UnloadOrdered() | ev.LoadOrdered():
            return [in_memory(event)]
        case ev.RequestResent():
            return known(grid, event, position)
        case (
            ev.RequestsListed()
            | ev.ClientAdded()
            | ev.ClientRemoved()
            | ev.NodeDrained()
            | ev.NodeResumed()
        ):
            return told(grid, event, position, taken)
        case ev.DiskOrdered() | ev.DiskEnded():
            return on_disk(event, position, taken)
        case ev.InputRejected() | ev.RequestRejected():
            return rejected(event, position, taken)
        case _:
            return []


def in_memory(event: ev.UnloadOrdered | ev.LoadOrdered) -> Out:
    """Return an ordered load or unload for the node."""
    if isinstance(event, ev.UnloadOrdered):
        head = agent_entries.WorkHead("unload", model=event.model)
        return Out(f"work:{event.node}", {"head": agent_entries.encode_head(head)})
    runner = options(event.num_ctx, event.runner)
    head = agent_entries.WorkHead("load", model=event.model, options=runner)
    return Out(f"work:{event.node}", {"head": agent_entries.encode_head(head)}, stamp="work_id")


def token_reply(piece: Token, node: str) -> Out:
    """Return a piece of an answer for the client's reply stream."""
    client, request_id = split(piece.request)
    reply = Reply(
        id=request_id,
        kind="token",
        attempt=piece.attempt,
        work_id=piece.work_id,
        seq=piece.seq,
        node=node,
    )
    fields: dict[str, Any] = reply_fields(reply)
    fields["text"] = b""
    fields |= {name.decode(): value for name, value in piece.fields.items()}
    return Out(f"replies:{client}", fields, bytes=sum(map(len, piece.fields.values())))


def accepted_reply(key: str, standing: Standing, position: int) -> Out:
    """Tell a client where its request stands."""
    client, request_id = split(key)
    reply = Reply(
        id=request_id,
        kind="accepted",
        waiting=standing.waiting,
        eta_ms=standing.eta_ms,
        eta_high_ms=standing.eta_high_ms,
        waits_for=standing.waits_for,
        position=position,
    )
    return Out(f"replies:{client}", reply_fields(reply))


def work(grid: Grid, event: ev.RequestRouted, position: int) -> list[Out]:
    """Return the run for the node, with the request's body. Announce a further attempt to the client."""
    request = grid.open[event.request]
    client, request_id = split(event.request)
    head = agent_entries.WorkHead(
        "run",
        event.request,
        event.attempt,
        request.model,
        options=options(event.num_ctx or request.num_ctx, request.runner),
        keep_alive_max_ms=grid.rules_of(client).max_keep_alive_ms,
    )
    body = Body(
        stream=f"requests:{client}",
        entry_id=request.entry_id,
        names=requests_replies.BODY_FIELDS,
        required=True,
    )
    run = Out(
        f"work:{event.node}",
        {"head": agent_entries.encode_head(head)},
        stamp="work_id",
        body=body,
        bytes=request.body_bytes,
    )
    if event.attempt == 1:
        return [run]
    announced = Reply(
        id=request_id,
        kind="restarted",
        attempt=event.attempt,
        node=event.node,
        position=position,
    )
    return [run, Out(f"replies:{client}", reply_fields(announced), stamp="reply_id")]


def options(num_ctx: int, runner: str) -> dict[str, int]:
    """Return the runner's options for Ollama, as a request's row names them."""
    named = {"num_ctx": num_ctx} if num_ctx else {}
    for each in runner.split():
        name, _, value = each.partition("=")
        named[name] = int(value)
    return named


def done(event: ev.RequestCompleted, position: int, taken: Taken | None, request: Request) -> Out:
    """Return the reply with the whole answer."""
    client, request_id = split(event.request)
    answer = taken.answer if taken is not None else {}
    reply = Reply(
        id=request_id,
        kind="done",
        attempt=event.attempt,
        work_id=event.work_id,
        node=event.node,
        engine=agent_entries.decode_result(answer[b"head"]).engine if answer else "",
        position=position,
        **Usage.of(event).fields(),
        model=request.model,
        warm=not event.cold,
        ignored=",".join(request.ignored),
    )
    fields: dict[str, Any] = reply_fields(reply)
    for name in agent_entries.ANSWER_FIELDS:
        if value := answer.get(name.encode()):
            fields[name] = value
    fields.setdefault("text", b"")
    size = sum(len(value) for value in fields.values() if isinstance(value, bytes))
    return Out(f"replies:{client}", fields, stamp="reply_id", bytes=size)


def error(grid: Grid, event: ev.RequestFailed, position: int) -> Out:
    """Return the error reply. A node's own words are copied from its result by the server, never
    through the log."""
    client, request_id = split(event.request)
    request = grid.open[event.request]
    last = request.failures[-1] if request.failures else None
    message = requests_replies.CODES.get(event.code, event.code)
    if last is not None:
        message += f" The last one: {last.code} on {last.node}."
    reply = Reply(
        id=request_id,
        kind="error",
        code=event.code,
        model=request.model,
        message=message,
        position=position,
        ignored=",".join(request.ignored),
    )
    body = None
    if last is not None and last.source:
        body = Body(stream=f"results:{last.node}", entry_id=last.source, names=("message",), required=False)
    return Out(f"replies:{client}", reply_fields(reply), stamp="reply_id", body=body)


def cancelled(grid: Grid, event: ev.RequestCancelled, position: int, taken: Taken | None) -> list[Out]:
    """Return the reply to whose request it was, and another to the operator who cancelled it."""
    client, request_id = split(event.request)
    request = grid.open.get(event.request)
    message = f"{event.by} cancelled it." if event.by else ""
    reply = Reply(id=request_id, kind="cancelled", message=message, position=position)
    if request is not None:
        reply = structs.replace(reply, model=request.model, ignored=",".join(request.ignored))
    outs = [Out(f"replies:{client}", reply_fields(reply), stamp="reply_id")]
    if event.by and taken is not None:
        answer = Reply(id=taken.reply_to, kind="cancelled", position=position)
        outs.append(Out(f"replies:{event.by}", reply_fields(answer)))
    return outs


Told = ev.RequestsListed | ev.ClientAdded | ev.ClientRemoved | ev.NodeDrained | ev.NodeResumed


def told(grid: Grid, event: Told, position: int, taken: Taken | None) -> list[Out]:
    """Return the reply to an operator who asked what is open, or about a node; to the gateway about a
    guest. What nobody asked for has none."""
    if taken is None:
        return []
    kind, rows = "noted", ""
    match event:
        case ev.RequestsListed():
            client, kind, rows = event.client, "listed", msgspec.json.encode(open_rows(grid)).decode()
        case ev.NodeDrained() | ev.NodeResumed():
            client = event.by
        case _:
            client = GATEWAY
    reply = Reply(id=taken.reply_to, kind=kind, position=position, requests=rows)
    return [Out(f"replies:{client}", reply_fields(reply), stamp="reply_id")]


def open_rows(grid: Grid) -> list[dict[str, Any]]:
    """Return the open requests of all clients, oldest first."""
    rows = []
    for key, request in islice(grid.open.items(), LISTED_MAX):
        client, request_id = split(key)
        rows.append(
            {
                "client": client,
                "id": request_id,
                "model": request.model,
                "state": state_of(request),
                "node": request.node,
                "priority": request.priority,
                "waited_ms": grid.at_ms - request.accepted_ms,
            }
        )
    return rows


def expired(grid: Grid, event: ev.RequestExpired, position: int) -> Out:
    """Return the reply to a request past its deadline: where it was, or what it waited for."""
    client, request_id = split(event.request)
    request = grid.open[event.request]
    reply = Reply(
        id=request_id,
        kind="expired",
        model=request.model,
        message=f"The deadline passed while it {whereabouts(grid, request)}.",
        position=position,
        ignored=",".join(request.ignored),
    )
    return Out(f"replies:{client}", reply_fields(reply), stamp="reply_id")


def whereabouts(grid: Grid, request: Request) -> str:
    """Say where an open request is, or why no node took it."""
    if request.work_id:
        return f"{'ran' if request.started else 'was about to run'} on {request.node}"
    decision = route(grid, request)
    held_back = ", ".join(f"{each.node}: {each.filter}" for each in decision.verdicts if each.filter)
    node = decision.node if isinstance(decision, Wait) else ""
    waited = f"waited for {node}, which could not begin yet" if node else "waited for a node"
    return f"{waited} ({held_back})" if held_back else waited


def cancel(grid: Grid, key: str) -> list[Out]:
    """Take the request's current attempt, if any, off its node."""
    request: Request | None = grid.open.get(key)
    if request is None or not request.work_id:
        return []
    return [cancel_run(request.node, key, request.attempt, request.work_id)]


def withdraw(grid: Grid, event: ev.AttemptAbandoned) -> list[Out]:
    """Tell the node to stop, unless it no longer has the attempt."""
    if event.reason == "gone":
        return []
    return [cancel_run(event.node, event.request, event.attempt, event.work_id)]


def known(grid: Grid, event: ev.RequestResent, position: int) -> list[Out]:
    """Answer a closed id that came again: how it ended, and where that stands. An open one: nothing."""
    closed = grid.find_closed(event.request)
    if closed is None:
        return []
    client, request_id = split(event.request)
    reply = Reply(
        id=request_id, kind="known", state=closed.state, reply_id=closed.reply_id, position=position
    )
    return [Out(f"replies:{client}", reply_fields(reply), stamp="reply_id")]


def rejected(event: ev.InputRejected | ev.RequestRejected, position: int, taken: Taken | None) -> list[Out]:
    """Return one rejected reply, where a client is known to read it."""
    source = event.stream if isinstance(event, ev.InputRejected) else f"requests:{event.request}"
    kind, _, rest = source.partition(":")
    if kind != "requests" or taken is None:
        return []
    client = rest.partition("/")[0]
    reply = Reply(
        id=taken.reply_to,
        kind="rejected",
        code=event.code,
        model=taken.model,
        message=taken.message,
        position=position,
        ignored=",".join(taken.ignored),
    )
    return [Out(f"replies:{client}", reply_fields(reply), stamp="reply_id")]
