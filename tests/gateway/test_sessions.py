"""A conversation keeps its name, which tells nobody what was said; background work has none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from orion_streams.gateway import sessions
from orion_streams.gateway.asks import chat_ask, generate_ask
from orion_streams.gateway.native_requests import chat_request, generate_request
from orion_streams.gateway.openai_requests import chat_request as v1_chat_request
from orion_streams.gateway.sessions import SESSION_HEADERS, is_background, session_of
from tests.grids import fails

SECRET, OTHER_SECRET = b"s" * 32, b"t" * 32
SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello."}
REPLY = {"role": "assistant", "content": "Hello to you."}
MORE = {"role": "user", "content": "And now?"}
ORION, OPEN_WEBUI = SESSION_HEADERS
HISTORY = "<chat_history>\nUSER: Hello.\n</chat_history>"
TASKS = {
    "title": f"### Task:\nGenerate a title.\n### Output:\nJSON format\n### Chat History:\n{HISTORY}",
    "autocomplete": f"### Task:\nContinue.\n### Context:\n{HISTORY}\n<text>Hel</text>\n#### Output:\n",
}
"""As Open WebUI 0.12 asks, shortened."""
DOCUMENTS = "### Task:\nRespond to the user query.\n<context>\nA document.\n</context>\nWhat does it say?"
Names = Callable[..., str]


def chat(*messages: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """The fields of a chat."""
    return {"kind": "chat", "model": "m:1b", "messages": list(messages), "stream": True, **fields}


def name(
    *messages: Mapping[str, Any],
    secret: bytes = SECRET,
    client: str = "anna",
    headers: Mapping[str, str] | None = None,
    **fields: Any,
) -> str:
    """The session's name of a chat."""
    return session_of(secret, client, headers or {}, chat(*messages, **fields))


def guessable(*messages: Mapping[str, Any], **_: Any) -> str:
    """What a name must not be: a hash that anybody can make of a guessed beginning."""
    begin = sessions.beginning(chat(*messages))
    return hashlib.sha256(msgspec.json.encode(begin)).hexdigest()[:32] if begin else ""


def whole(*messages: Mapping[str, Any], **_: Any) -> str:
    """What a name must not be: one that changes with every message."""
    return hashlib.sha256(msgspec.json.encode(messages)).hexdigest()


def is_a_secret(of: Names) -> None:
    """Another secret, client or model makes another name of the same words."""
    names = {
        of(SYSTEM, HELLO),
        of(SYSTEM, HELLO, secret=OTHER_SECRET),
        of(SYSTEM, HELLO, client="ben"),
        of(SYSTEM, HELLO, model="n:1b"),
    }
    assert len(names) == 4


def is_kept(of: Names) -> None:
    """A conversation that grows keeps its name; one that begins otherwise has another."""
    assert of(SYSTEM, HELLO) == of(SYSTEM, HELLO, REPLY, MORE)
    assert len({of(SYSTEM, HELLO), of(HELLO), of(SYSTEM, MORE)}) == 3


@pytest.mark.parametrize(("law", "control"), [(is_a_secret, guessable), (is_kept, whole)])
def test_a_name_is_kept_and_tells_nothing(law: Callable[[Names], None], control: Names) -> None:
    """By its first messages, under the gateway's secret; the control: another way of naming fails."""
    law(name)
    assert fails(law, control)


def test_a_name_is_short_and_printable() -> None:
    """It fits into the contract's field, whatever it is made of."""
    assert all(
        len(each) == 32 and each.isalnum() for each in (name(HELLO), name(headers={ORION: "\udc80é"}))
    )


def test_what_is_told_wins() -> None:
    """A header goes before `session` in the body, and both before how the chat begins; no header at all is
    the control."""
    for header in SESSION_HEADERS:
        told = {header: "c1"}
        assert name(HELLO, headers=told) == name(MORE, headers=told, session="c2") != name(HELLO)
    assert name(HELLO, session="c1") == name(MORE, session="c1") == name(HELLO, headers={OPEN_WEBUI: "c1"})
    assert name(HELLO, headers={"X-Other": "c1"}) == name(HELLO)
    both = {ORION: "c1", OPEN_WEBUI: "c2"}
    assert name(headers=both) == name(headers={ORION: "c1"})


def test_without_a_beginning_there_is_no_name() -> None:
    """No message of a user, no session: neither a prompt nor a system message alone is one."""
    assert name() == name(SYSTEM) == name(REPLY) == ""
    assert session_of(SECRET, "anna", {}, {"kind": "generate", "prompt": "Why?"}) == ""


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_background_work_has_no_session(task: str) -> None:
    """What Open WebUI asks by itself, with its chat's header too, has no name; the same words in a streamed
    question, or in a longer conversation, are the control."""
    asked = {"role": "user", "content": task}
    assert is_background(chat(asked, stream=False))
    assert is_background(chat(SYSTEM, asked, stream=False))
    assert name(asked, stream=False, headers={OPEN_WEBUI: "c1"}, session="c2") == ""
    for control in (chat(asked), chat(HELLO, REPLY, asked, stream=False), chat(HELLO, stream=False)):
        assert not is_background(control)
        assert session_of(SECRET, "anna", {OPEN_WEBUI: "c1"}, control)


@pytest.mark.parametrize("stream", [True, False])
def test_a_question_about_documents_is_no_background_work(stream: bool) -> None:
    """Open WebUI wraps it in words that begin alike."""
    assert not is_background(chat({"role": "user", "content": DOCUMENTS}, stream=stream))


@pytest.mark.parametrize("value", ["c1", 7, None, ["c1"], ""])
def test_a_body_may_name_its_session(value: object) -> None:
    """Of every API that has a conversation; what is no text is ignored, as an unknown field is."""
    body = {"model": "m:1b", "messages": [HELLO], "prompt": "x", "session": value}
    raw = msgspec.json.encode(body)
    asks = (
        chat_ask(chat_request(dict(body))),
        generate_ask(generate_request(dict(body))),
        chat_ask(v1_chat_request(raw)[0]),
    )
    for ask in asks:
        assert (ask.fields.get("session") or None) == ("c1" if value == "c1" else None)
