"""The contract typed by hand over a plain socket: none of our client's code, no Redis library."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orion_streams.runtime.embedded_server import EmbeddedServer
from tests.contract.contract_grid import running
from tests.helpers import WAIT_S

ASK = b'XADD orion:requests:brain * id q1 model gemma3:270m prompt "Why is the sky blue?"\r\n'
LISTEN = b"XREAD BLOCK 0 STREAMS orion:replies:brain 0\r\n"


class Hand:
    """Redis' protocol as a person with a terminal would speak it."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=WAIT_S)
        self.lines = self.socket.makefile("rb")

    def say(self, line: bytes) -> Any:
        """Send a line and read its answer."""
        self.socket.sendall(line)
        return self.answer()

    def command(self, *parts: bytes) -> Any:
        """Send a command as an array of strings and read its answer."""
        strings = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        return self.say(b"*%d\r\n%s" % (len(parts), strings))

    def answer(self) -> Any:
        """One answer: a string, a number or a list of answers."""
        head = self.lines.readline()
        kind, rest = head[:1], head[1:-2]
        match kind:
            case b"+":
                return rest
            case b":":
                return int(rest)
            case b"$":
                return None if rest == b"-1" else self.lines.read(int(rest) + 2)[:-2]
            case b"*":
                return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]
            case _:
                raise AssertionError(head)

    def close(self) -> None:
        """Hang up."""
        self.lines.close()
        self.socket.close()


def until_done(hand: Hand, after: bytes) -> list[dict[bytes, bytes]]:
    """The replies after a position, up to the done one, each read beginning where the last one ended."""
    found: list[dict[bytes, bytes]] = []
    position = after
    while not found or found[-1][b"kind"] != b"done":
        answer = hand.command(b"XREAD", b"BLOCK", b"0", b"STREAMS", b"orion:replies:brain", position)
        rows = answer[0][1]
        found += [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in rows]
        position = rows[-1][0]
    return found


async def told(folder: Path, talk: Callable[[Hand], tuple[bytes, Any]]) -> tuple[bytes, Any]:
    """What somebody hears who talks by hand to a grid of the test's own."""

    def work(url: str) -> tuple[bytes, Any]:
        with closing(Hand(url)) as hand:
            return talk(hand)

    with EmbeddedServer(folder) as server:
        async with running(server.url, "orion:"):
            return await asyncio.to_thread(work, server.url)


async def test_two_lines_typed_by_hand_are_answered(tmp_path: Path) -> None:
    """The two commands of the documentation, letter by letter, get an answer."""
    entry_id, heard = await told(tmp_path, lambda hand: (hand.say(ASK), hand.say(LISTEN)))
    assert entry_id.count(b"-") == 1
    [[stream, [[_, flat], *_]]] = heard
    first = dict(zip(flat[::2], flat[1::2], strict=True))
    assert (stream, first[b"id"]) == (b"orion:replies:brain", b"q1")


async def test_an_array_of_strings_gets_tokens_and_the_whole_answer(tmp_path: Path) -> None:
    """Gapless tokens join to the text of the done reply, under the entry's id as none was given."""
    prompt = "Größe?\r\n$5 {".encode()
    add = (b"XADD", b"orion:requests:brain", b"*", b"model", b"gemma3:270m", b"prompt", prompt)
    entry_id, heard = await told(tmp_path, lambda hand: (hand.command(*add), until_done(hand, b"0")))
    assert [reply[b"id"] for reply in heard] == [entry_id] * 3
    assert [(reply[b"kind"], reply.get(b"seq")) for reply in heard] == [
        (b"token", b"1"),
        (b"token", b"2"),
        (b"done", None),
    ]
    *tokens, done = heard
    assert b"".join(token[b"text"] for token in tokens) == done[b"text"] == prompt
    assert (done[b"node"], done[b"engine"]) in ((b"one", b"simulated"), (b"two", b"simulated"))
