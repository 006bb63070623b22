"""Which conversation a request belongs to, and whether it is only background work. Pure.

A session's name stands in the log, so it is an HMAC under the gateway's secret: a plain hash of a short
prompt could be guessed.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

SESSION_HEADERS = ("X-Orion-Session", "X-OpenWebUI-Chat-Id")
"""The first one that is there counts. Open WebUI sends its own with background work too."""
NAME_BYTES = 16
TASK, HISTORY = "### Task:", "<chat_history>"
"""How Open WebUI begins what it asks by itself (titles, tags, follow-ups, searches), and what stands in
it. What it makes of a question about documents begins so, too; that is streamed, and holds a context."""
BACKGROUND_PRIORITY, LEAST_PRIORITY = -3, -9
"""So much lower is the priority of background work, and the lowest there is."""


def is_background(fields: Mapping[str, Any]) -> bool:
    """Whether a chat is background work of Open WebUI: one message, not streamed, in its own words."""
    messages = [each for each in fields.get("messages") or () if each["role"] != "system"]
    if len(messages) != 1 or fields.get("stream"):
        return False
    content = messages[0].get("content", "")
    return content.startswith(TASK) and HISTORY in content


def session_of(secret: bytes, client: str, headers: Mapping[str, str], fields: Mapping[str, Any]) -> str:
    """Return the session's name: by a header, by `session` in the body, else by how the chat begins, up to
    the first message of its user; "" if there is nothing to tell by. Background work has none, so it does
    not take the conversation's place."""
    if is_background(fields):
        return ""
    named = [headers.get(name, "") for name in SESSION_HEADERS]
    told = next((each for each in (*named, fields.get("session")) if each), "")
    begin = ascii(told) if told else beginning(fields)  # a header may hold what is no text
    if not begin:
        return ""
    raw = msgspec.json.encode([client, fields.get("model", ""), begin])
    return hmac.digest(secret, raw, "sha256")[:NAME_BYTES].hex()


def beginning(fields: Mapping[str, Any]) -> list[Any]:
    """Return the messages up to the first one of the user, images left out; none without such a one."""
    begin = []
    for message in fields.get("messages") or ():
        begin.append([message["role"], message.get("content", "")])
        if message["role"] == "user":
            return begin
    return []
