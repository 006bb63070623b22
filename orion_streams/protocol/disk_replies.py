"""What the begin and the end of a pull or removal cause, and how far a pull is. Pure."""

from __future__ import annotations

from typing import Any, Literal, cast

from orion_streams.model import events as ev
from orion_streams.model.commit import Body
from orion_streams.protocol import agent_entries, requests_replies
from orion_streams.protocol.input_entries import Progress, Taken
from orion_streams.protocol.out_entries import Out, cancel_run, split
from orion_streams.protocol.replies import Reply, reply_fields


def on_disk(event: ev.DiskOrdered | ev.DiskEnded, position: int, taken: Taken | None) -> list[Out]:
    """Return what the begin or end of a pull or removal causes."""
    if isinstance(event, ev.DiskOrdered):
        return disk_ordered(event, position)
    outs = disk_ended(event, position)
    if event.by and taken is not None:
        answer = Reply(id=taken.reply_to, kind="cancelled", position=position)
        outs.append(Out(f"replies:{event.by}", reply_fields(answer)))
    return outs


def disk_ordered(event: ev.DiskOrdered, position: int) -> list[Out]:
    """Return the work for the node, and the first progress for who asked."""
    client, request_id = split(event.request)
    head = agent_entries.WorkHead(cast(Literal["pull", "remove"], event.op), model=event.model)
    reply = Reply(
        id=request_id,
        kind="progress",
        model=event.model,
        node=event.node,
        status="ordered",
        position=position,
    )
    return [
        Out(f"work:{event.node}", {"head": agent_entries.encode_head(head)}, stamp="work_id"),
        Out(f"replies:{client}", reply_fields(reply), stamp="reply_id"),
    ]


STOPPED = ("cancelled", "overdue", "gone")
"""Codes of ends that the node may not know yet."""


def disk_ended(event: ev.DiskEnded, position: int) -> list[Out]:
    """Return the end for who asked. A node's own words are copied from its result by the server."""
    client, request_id = split(event.request)
    kind = {"": "noted", "cancelled": "cancelled"}.get(event.code, "error")
    what = requests_replies.DISK_CODES.get(event.code, "")
    if kind == "cancelled":
        what = f"{event.by} cancelled it." if event.by else "It was cancelled."
    reply = Reply(
        id=request_id,
        kind=kind,
        model=event.model,
        node=event.node,
        code=event.code if kind == "error" else "",
        message=what,
        position=position,
    )
    body = None
    if kind == "error" and event.source:
        body = Body(
            stream=f"results:{event.node}", entry_id=event.source, names=("message",), required=False
        )
    outs = [Out(f"replies:{client}", reply_fields(reply), stamp="reply_id", body=body)]
    return [*outs, cancel_run(event.node, "", 0, event.work_id)] if event.code in STOPPED else outs


def progress_reply(said: Progress, node: str) -> Out:
    """Return how far a pull is, for who asked for it."""
    client, request_id = split(said.request)
    fields: dict[str, Any] = reply_fields(Reply(id=request_id, kind="progress", node=node))
    fields |= {name.decode(): value for name, value in said.fields.items()}
    return Out(f"replies:{client}", fields, bytes=sum(map(len, said.fields.values())))
