"""`orion chat`: a conversation with a model, in the terminal or line by line from a pipe."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from orion_streams import RequestError
from orion_streams.cli import grid_discovery
from orion_streams.cli.answer_view import AnswerView, dim
from orion_streams.cli.conversation import Conversation, TooLongError
from orion_streams.cli.interruptible import Interrupted, answered, client_of, sign
from orion_streams.cli.options import CommonOptions, Wishes
from orion_streams.cli.outcome import EXIT_INTERRUPTED, plain, tell
from orion_streams.cli.request_options import asking_client, fields_of, from_stdin, model_to_ask
from orion_streams.client.calls import Fields
from orion_streams.config import Config
from orion_streams.errors import EXIT_FAILED, EXIT_OK, OrionError

HELP = """\
/bye           end; Ctrl-D and Ctrl-C do, too
/clear         forget what was said
/model [NAME]  ask this model from now on, or say which one is asked
/help          these lines
Ctrl-C while an answer comes cancels it in the grid."""
PROMPT = ">>> "
ENTRY_OVERHEAD_BYTES = 200
"""For the fields that the client adds: id, kind, stream, notify, deadline_ms."""


class Chat:
    """One conversation. Each question has a connection of its own, so that none is left alone while a line
    is typed. `failed`: a question had no answer."""

    def __init__(self, config: Config, client: str, model: str, wishes: Wishes) -> None:
        limit_bytes = config.limits.entry_max_bytes - ENTRY_OVERHEAD_BYTES
        self.conversation = Conversation(limit_bytes, wishes.system)
        self.model, self.failed = model, False
        self._config, self._client, self._thoughts = config, client, bool(wishes.think)
        self._fields: Fields = fields_of(wishes)
        self._fields.setdefault("session", f"chat-{uuid.uuid4().hex}")

    async def say(self, line: str) -> None:
        """Ask, and show the answer. An error of the request is told. Raises Interrupted, BackendError."""
        content = {"kind": "chat", "model": self.model, "stream": True}
        view = AnswerView(thoughts=self._thoughts)
        try:
            messages = self._messages(line, content)
            async with client_of(self._config, self._client) as client:
                answer = await answered(client, {**content, "messages": messages}, self._fields, view)
        except (RequestError, TooLongError) as error:
            self._fail(error)
            return
        self.conversation.note(line, answer.text)
        if sys.stdin.isatty():
            sign(answer)

    def _messages(self, line: str, content: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the conversation with a new line; tell what was dropped from it. Raises TooLongError."""
        known = {name: value for name, value in self._fields.items() if name != "timeout_s"}
        messages, dropped = self.conversation.ask(line, {**content, **known})
        if dropped:
            oldest = "the oldest question" if dropped == 1 else f"the {dropped} oldest questions"
            tell(dim(f"too long for one request: {oldest} and what was answered left the conversation"))
        return messages

    def command(self, line: str) -> bool:
        """Do what a line that begins with a slash says; return whether the conversation goes on."""
        name, _, rest = line[1:].partition(" ")
        match name:
            case "bye":
                return False
            case "clear":
                self.conversation.clear()
                tell(dim("forgotten"))
            case "model":
                self.model = rest.strip() or self.model
                tell(dim(f"asking {self.model}"))
            case "help":
                tell(HELP)
            case _:
                self._fail(OrionError(f"{line[:80]!a} is no command: /help lists them"))
        return True

    def _fail(self, error: OrionError) -> None:
        tell(f"orion: {plain(error.told)}")
        self.failed = True


def run(*, wishes: Wishes, common: CommonOptions) -> int:
    """Talk until /bye or the end of stdin. Return the exit code: without a terminal 1 if a question had no
    answer. Raises BackendError, ConfigError."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    client = asking_client(config, wishes.client)
    return talk(Chat(config, client, asyncio.run(model_to_ask(config, wishes.model)), wishes))


def talk(chat: Chat) -> int:
    """Read lines and answer them. No loop runs while a line is typed, so Ctrl-C ends it there."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        tell(dim("/help lists the commands, /bye ends"))
    for line in lines(is_terminal):
        if line.startswith("/"):
            if not chat.command(line):
                break
            continue
        try:
            asyncio.run(chat.say(line))
        except Interrupted as end:
            tell(dim(str(end)))
            if not is_terminal:
                return EXIT_INTERRUPTED
    return EXIT_FAILED if chat.failed and not is_terminal else EXIT_OK


def lines(is_terminal: bool) -> Iterator[str]:
    """Yield what is typed, or the lines of a pipe, without blank ones, until the end or Ctrl-C at the
    prompt. Raises ConfigError for what is no text."""
    if is_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401, PLC0415 - editing and history, where Python has it
    while True:
        try:
            line = from_stdin((lambda: input(PROMPT)) if is_terminal else sys.stdin.readline)
        except (EOFError, KeyboardInterrupt):
            if is_terminal:
                tell("")
                return
            raise
        if not line and not is_terminal:
            return
        if line.strip():
            yield line.strip()
