"""`orion chat` and `orion ask`: what is sent, what is shown, and what Ctrl-C does."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from orion_streams.cli.answer_view import ERASE, waiting_note
from orion_streams.cli.conversation import Conversation, size_of
from orion_streams.cli.request_options import MAX_FILE_BYTES, option_of
from orion_streams.errors import ConfigError
from orion_streams.model import events as ev
from orion_streams.protocol.answer_events import Accepted
from tests.cli.conftest import Orion
from tests.cli.talking import House, Talk, house
from tests.contract.contract_grid import MODEL, Run
from tests.helpers import eventually


def messages_of(run: Run) -> list[dict[str, Any]]:
    """The messages of a chat that a stand-in was given."""
    return msgspec.json.decode(run.fields["messages"], type=list[dict[str, Any]])


async def parrot(run: Run) -> None:
    """Answers a chat with its last message, in capitals."""
    await run.started()
    text = messages_of(run)[-1]["content"].upper()
    await run.token(text)
    await run.done(text)


async def endless(run: Run) -> None:
    """Begins an answer that ends when it is cancelled."""
    await run.started()
    await run.token("It is")
    await run.cancelled.wait()


async def thinker(run: Run) -> None:
    """Thinks, then answers."""
    await run.started()
    await run.piece(thinking="hm, light")
    await run.token("Blue.")
    await run.done("Blue.", {"thinking": "hm, light"})


async def accepted(home: House) -> list[ev.RequestAccepted]:
    """The requests that the log has."""
    return [event for event in await home.grid.events() if isinstance(event, ev.RequestAccepted)]


async def test_what_was_said_is_sent_along(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Each question goes with all before it under one session, till /clear; another process is another
    session."""
    async with house(valkey_url, prefix, tmp_path, parrot) as home:
        lines = "one\n\ntwo\n/clear\nthree\n"
        code, out, err = await home.say("chat", "--system", "Be loud.", lines=lines)
        assert (code, out) == (0, "ONE\nTWO\nTHREE\n"), err
        await home.say("chat", lines="four\n")
        said = sorted((messages_of(run) for run in home.grid.runs), key=lambda rows: rows[-1]["content"])
        sessions = [event.session for event in await accepted(home)]
    texts = [[row["content"] for row in rows] for rows in said]
    assert texts == [
        ["four"],
        ["Be loud.", "one"],
        ["Be loud.", "three"],
        ["Be loud.", "one", "ONE", "two"],
    ]
    assert [row["role"] for row in said[-1]] == ["system", "user", "assistant", "user"]
    assert len(set(sessions[:3])) == 1
    assert len(set(sessions)) == 2


async def test_options_reach_the_node_and_the_router(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Of both commands: session, priority, client, options in their types, a schema from a file; of `ask`
    an image too."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    (tmp_path / "schema.json").write_bytes(msgspec.json.encode(schema))
    (tmp_path / "cat.png").write_bytes(b"a cat")
    words = (
        *("--session", "s1", "--priority", "-2", "--client", "kitchen", "--format", "schema.json"),
        *("--option", "num_predict=7", "--option", "use_mmap=false", "--option", "stop=END", "--no-think"),
    )

    async def answer(run: Run) -> None:
        await run.started()
        await run.done("ok")

    async with house(valkey_url, prefix, tmp_path, answer) as home:
        assert (await home.say("ask", "What?", *words, "--image", "cat.png", "--system", "Look."))[0] == 0
        assert (await home.say("chat", *words, lines="What?\n"))[0] == 0
        found = await accepted(home)
        runs = home.grid.runs
    assert [(each.request.partition("/")[0], each.session, each.priority) for each in found] == [
        ("kitchen", "s1", -2)
    ] * 2
    for run in runs:
        assert msgspec.json.decode(run.fields["options"]) == {
            "num_predict": 7, "use_mmap": False, "stop": "END"
        }  # fmt: skip
        assert msgspec.json.decode(run.fields["format"]) == schema
        assert run.fields["think"] == "false"
    [asked] = [run for run in runs if "images" in run.fields]
    assert msgspec.json.decode(asked.fields["images"]) == [base64.b64encode(b"a cat").decode()]
    assert asked.fields["system"] == "Look."


@pytest.mark.parametrize("words", [("ask", "Why?", "--think"), ("chat", "--think"), ("ask", "Why?")])
async def test_thoughts_are_no_part_of_the_answer(
    valkey_url: str, prefix: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """They stand on stderr if they were asked for, and nowhere else."""
    async with house(valkey_url, prefix, tmp_path, thinker) as home:
        code, out, err = await home.say(*words, lines="Why?\n")
    assert (code, out) == (0, "Blue.\n")
    assert ("hm, light\n" in err) == ("--think" in words)


async def test_commands_and_errors_do_not_end_a_conversation(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """/help and /model tell, a model that nobody has and a command that is none are errors of their line
    alone; the exit code says that there was one."""
    lines = f"/help\n/model nobody:has-it\none\n/nonsense\n/model {MODEL}\ntwo\n/bye\nthree\n"
    async with house(valkey_url, prefix, tmp_path, parrot) as home:
        code, out, err = await home.say("chat", lines=lines)
        assert (code, out) == (1, "TWO\n")
        assert messages_of(home.grid.runs[0])[0]["content"] == "two"
        assert (await home.say("chat", lines="/bye\n"))[0] == 0
    assert "/clear" in err
    assert "unknown_model" in err
    assert "'/nonsense' is no command: /help lists them" in err


async def test_a_conversation_that_grows_too_long_loses_its_begin(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """What one request cannot hold is dropped, oldest first, and said; a question that is too long by
    itself is refused without being sent."""
    lines = "".join(f"{letter * 300}\n" for letter in "abcd") + "e" * 3_000 + "\n"
    async with house(valkey_url, prefix, tmp_path, parrot, "[limits]\nentry_max_bytes = 2000") as home:
        code, _, err = await home.say("chat", lines=lines)
        longest = [[row["content"][0] for row in messages_of(run)] for run in home.grid.runs]
    assert code == 1
    assert "the oldest question and what was answered left the conversation" in err
    assert "this question is too long" in err
    assert max(map(len, longest)) < 7
    assert sorted(longest)[-1][-1] == "d"


def connections(talk: Talk) -> int:
    """How many the process has."""
    return len(psutil.Process(talk.process.pid).net_connections(kind="inet"))


async def test_no_connection_waits_for_the_next_line(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Between two questions somebody may think for an hour: a connection would be dead by then. While it
    answers there is one, as the control."""
    go_on = asyncio.Event()

    async def slow(run: Run) -> None:
        await run.started()
        await run.token("Blue")
        await go_on.wait()
        await run.done("Blue")

    async with house(valkey_url, prefix, tmp_path, slow) as home:
        talk = await home.start("chat")
        await talk.type("one\n")
        await talk.until("Blue")
        assert connections(talk) > 0
        go_on.set()
        await eventually(lambda: connections(talk) == 0, "no connection")
        await talk.type("two\n")
        await talk.until("Blue", times=2)
        assert await talk.end() == 0


def test_a_conversation_holds_what_fits_to_the_byte() -> None:
    """At the limit all is kept; with one byte less the oldest turn is dropped, and only that."""
    held = Conversation(10_000, "Be brief.")
    for word in ("one", "two", "three"):
        held.note(word, word.upper())
    messages, dropped = held.ask("four", {"model": MODEL})
    assert (len(messages), dropped) == (8, 0)
    held.limit_bytes = size_of(messages, {"model": MODEL})
    assert held.ask("four", {"model": MODEL}) == (messages, 0)
    held.limit_bytes -= 1
    assert held.ask("four", {"model": MODEL}) == ([messages[0], *messages[3:]], 1)


async def test_ctrl_c_cancels_in_the_grid(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """During an answer: the node stops, the log has the end, the exit code is 130, and it is said."""
    async with house(valkey_url, prefix, tmp_path, endless) as home:
        for words in (("ask", "Why?"), ("chat",)):
            talk = await home.start(*words)
            await talk.type("Why?\n")
            await talk.until("It is")
            talk.interrupt()
            assert await talk.end() == 130
            assert talk.err.endswith("cancelled: the node stops\n")
            assert talk.out == "It is\n"
        assert [run.cancelled.is_set() for run in home.grid.runs] == [True, True]
        ends = [event for event in await home.grid.events() if isinstance(event, ev.RequestCancelled)]
    assert len(ends) == 2


async def test_at_a_terminal_ctrl_c_ends_only_the_answer(
    valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    """The prompt comes back, and there Ctrl-C ends the conversation, without an error."""
    async with house(valkey_url, prefix, tmp_path, endless) as home:
        talk = await home.start("chat", terminal=True)
        await talk.until(">>> ")
        await talk.type("Why?\n")
        await talk.until("It is")
        talk.interrupt()
        await talk.until("the node stops")
        await talk.until(">>> ", times=2)
        talk.interrupt()
        with suppress(OSError):  # it may have ended
            await talk.type("\n")  # readline heeds a signal that came before it waits only at the next key
        assert await talk.end() == 0
    assert "Traceback" not in talk.out


async def filled(home: House, go_on: asyncio.Event) -> list[Talk]:
    """Two requests that hold both nodes."""
    talks = [await home.start("ask", "first") for _ in range(2)]
    await eventually(lambda: len(home.grid.runs) == 2, "both nodes are busy")
    assert not go_on.is_set()
    return talks


@pytest.mark.parametrize("terminal", [True, False])
async def test_who_waits_is_told_why(valkey_url: str, prefix: str, tmp_path: Path, terminal: bool) -> None:
    """On a terminal, after a second; the note is erased when the answer begins. A pipe gets nothing."""
    go_on = asyncio.Event()

    async def slow(run: Run) -> None:
        await run.started()
        if run.prompt == "first":
            await go_on.wait()
        await run.token("Blue.")
        await run.done("Blue.")

    async with house(valkey_url, prefix, tmp_path, slow) as home:
        busy = await filled(home, go_on)
        talk = await home.start("ask", "second", terminal=terminal)
        if terminal:
            await talk.until(f"{ERASE}\x1b[2m")
        else:
            await eventually(lambda: waiting(home), "it waits")
        go_on.set()
        assert await talk.end() == 0
        assert [await each.end() for each in busy] == [0, 0]
    assert (f"{ERASE}Blue." in talk.out) == terminal
    assert ("\x1b" in talk.out + talk.err) == terminal


async def waiting(home: House) -> bool:
    """Whether three requests were accepted."""
    return len(await accepted(home)) == 3


@pytest.mark.parametrize(
    ("told", "note"),
    [
        (None, "no router has taken it yet"),
        (Accepted(waiting=2, eta_ms=38_400, waits_for="queue"), "2 before it, about 40 s"),
        (Accepted(eta_ms=4_400, waits_for="load"), "its model is being loaded, about 4 s"),
        (Accepted(waiting=1, waits_for="heat"), "1 before it, a node must cool down first"),
        (Accepted(waits_for="node"), "no node for it is there now"),
        (Accepted(eta_ms=300), "the answer is being prepared, about 1 s"),
        (Accepted(waits_for="something new"), "the answer is being prepared"),
    ],
)
def test_the_note_says_what_is_known(told: Accepted | None, note: str) -> None:
    """How many go before it, why, and for how long."""
    assert waiting_note(told) == note


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1), ("a=0.5", 0.5), ("a=true", True), ("a=false", False), ("a=x", "x"), ("a=", ""),
        ("a=1=2", "1=2"), ('a=["x","y"]', ["x", "y"]), ("a=null", "null"), ("a=NaN", "NaN"),
        ("a={}", "{}"), ('a="1"', '"1"'),
    ],
)  # fmt: skip
def test_an_option_has_a_type(text: str, value: object) -> None:
    """Numbers, true and false, lists of text; all else is text as it stands."""
    name, found = option_of(text)
    assert (name, found, type(found)) == ("a", value, type(value))


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_an_option_has_a_name_and_a_value(text: str) -> None:
    """Else it is refused, with an example."""
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        option_of(text)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--format", "absent.json"), "absent.json: No such file"),
        (("--format", "list.json"), "list.json: expected a JSON schema"),
        (("--image", "large"), f"large: larger than {MAX_FILE_BYTES:,} bytes"),
        (("--image", "."), "Is a directory"),
        (("--client", "stranger"), "expected [clients.stranger]"),
        (("--option", "temperature"), "expected NAME=VALUE"),
    ],
)
def test_a_bad_option_is_one_clear_error(
    orion: Orion, grid_toml: Path, words: tuple[str, ...], what: str
) -> None:
    """Exit 78, one line, and nothing is asked."""
    (grid_toml.parent / "list.json").write_text("[1]")
    (grid_toml.parent / "large").write_bytes(bytes(MAX_FILE_BYTES + 1))
    code, out, err = orion("ask", "Why?", *words)
    assert (code, out, err.count("\n")) == (78, "", 1)
    assert what in err


async def test_what_is_no_text_is_one_clear_error(valkey_url: str, prefix: str, tmp_path: Path) -> None:
    """Bytes on stdin that are not UTF-8: exit 78, one line, for both commands."""
    async with house(valkey_url, prefix, tmp_path) as home:
        for words in (("ask", "-"), ("chat", "--model", MODEL)):
            talk = await home.start(*words)
            assert talk.process.stdin is not None
            talk.process.stdin.write(b"\xff\xfe\n")
            assert await talk.end() == 78
            assert talk.err.startswith("orion: stdin: expected UTF-8")
        assert home.grid.runs == []
