"""Every command of the documents is one: those that can be run here are run once, the others are parsed."""

from __future__ import annotations

import asyncio
import itertools
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from orion_streams import AsyncClient
from orion_streams.cli import roles
from orion_streams.cli.app import app
from orion_streams.errors import EXIT_DEGRADED, EXIT_OK
from tests.cli.run_cli import ROOT, finish, run, start
from tests.cli.test_up import Up
from tests.documents.code_blocks import Command, commands_in
from tests.helpers import WAIT_S

DOCUMENTS = ("README.md", "docs/OBSERVE.md", "docs/INCIDENTS.md", "docs/ALERTS.md")
"""Those whose commands are run; a further document needs nothing but its name."""
ENDLESS = (("up",), ("log", "--follow"), ("alerts", "run"), ("gateway",), ("router",), ("agent",))
"""Commands that go on until Ctrl-C, by the words that make them so: their first line is waited for,
for up to SAYS_S."""
ENDED = (EXIT_OK, EXIT_DEGRADED, 128 + signal.SIGINT)
"""Exit codes: done, the doctor has found something, interrupted."""
SAYS_S = 10.0
PAGE = "http://127.0.0.1:11435"


def commands() -> list[Command]:
    """All commands of all documents."""
    return [
        command
        for name in DOCUMENTS
        for command in commands_in(name, (ROOT / name).read_text(encoding="utf-8"))
    ]


COMMANDS = commands()
TO_RUN = [each for each in COMMANDS if not each.reason]


class Stage:
    """A simulated grid in a folder, a request q42 that it answered, its log in incident.jsonl.gz."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.up = Up(home, "--simulated")
        with Path(self.up.ready["config"]).open("a", encoding="utf-8") as file:
            file.write('\n[alerts_to.phone]\ncommand = ["true"]\n')
        began = time.time()
        asyncio.run(self._ask())
        code, _, err = run(home, "log", "export", "incident.jsonl.gz")
        assert code == 0, err
        interrupted(start(home, "alerts", "run"))  # `orion alerts list` shows what it left
        ended = time.time()
        moments = {"14:00": began, "14:05": (began + ended) / 2, "14:30": ended}
        self.values = {
            name: time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at)) for name, at in moments.items()
        }
        self.values |= {"ID": "brain/q42", "DIR": "archive", "FILE": "incident.jsonl.gz"}

    async def _ask(self) -> None:
        """Ask what the documents speak of."""
        async with AsyncClient(self.up.ready["redis_url"], "brain") as client:
            options: dict[str, Any] = {"num_predict": 4}
            for name in ("q41", "q42", "q43"):
                await client.generate("gemma3:270m", "Why is the sky blue?", id=name, options=options)

    def words(self, command: Command) -> list[str]:
        """The command's words with what is there in place of what the document makes up."""
        gateway_url = self.up.ready["gateway_url"]
        found = [self.values.get(word, word.replace(PAGE, gateway_url)) for word in command.words]
        for before, after in itertools.pairwise(found):
            if before in ("export", "-o"):
                (self.home / after).unlink(missing_ok=True)  # another document has written it
        return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage of all documents: a command finds what the ones before it have left."""
    stage = Stage(tmp_path_factory.mktemp("documents"))
    yield stage
    stage.up.end(signal.SIGTERM)


def is_endless(words: Sequence[str]) -> bool:
    """Whether it goes on until Ctrl-C."""
    if "--once" in words or "--json" in words:
        return False
    return any(set(each) <= set(words) and words[0] == each[0] for each in ENDLESS)


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the first line of a process, or a while for one with nothing to say; then interrupt it."""
    assert process.stdout is not None
    said, _, _ = select.select([process.stdout], [], [], SAYS_S)
    first = process.stdout.readline() if said else ""
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    return code, first + out, err


def tried(home: Path, words: Sequence[str]) -> tuple[int, str, str]:
    """Run one of orion's commands to its end, or until it has said something; another grid elsewhere."""
    if words == ["top"]:
        words = ["top", "--once"]  # there is no terminal
    if words[0] == "up":
        home = home / "another"
        home.mkdir(exist_ok=True)
    return interrupted(start(home, *words)) if is_endless(words) else run(home, *words)


@pytest.mark.everything
@pytest.mark.parametrize("command", TO_RUN, ids=str)
def test_a_command_of_a_document_runs(stage: Stage, command: Command) -> None:
    """As it stands there, beside a grid: it ends well, and says no traceback."""
    words = stage.words(command)
    if command.is_ours:
        code, out, err = tried(stage.home, words[1:])
        assert code in ENDED, err
        assert "Traceback" not in out + err
    else:
        [url] = [word for word in words if word.startswith("http")]
        answer = httpx.get(url, timeout=WAIT_S, trust_env=False)
        assert (words[0], answer.status_code) == ("curl", 200)


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.is_ours], ids=str)
def test_a_command_of_a_document_exists(command: Command) -> None:
    """Its name, its options, its arguments: whether it is run or not."""
    assert parsed(command.words[1:]) == ""


def parsed(words: Sequence[str]) -> str:
    """Parse a command without running it; return what is wrong with it."""
    if tuple(words[:2]) == ("alerts", "run"):
        words = ("alerts run", *words[2:])
    if words[0] in [name for name, *_ in roles.ROLES]:
        try:
            roles.parser().parse_args(words)
        except SystemExit:
            return "wrong words for a role"
        return ""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    try:
        while groups := getattr(command, "commands", None):
            if words[0] == "replay" and command.name == "replay" and rest[:1] and rest[0] not in groups:
                rest = ["verify", *rest]  # what it is without a word
            if rest[:1] and rest[0].startswith("-"):
                break  # the group's own options
            if not rest or rest[0] not in groups:
                return f"no such command: {' '.join(words)}"
            command, rest = groups[rest[0]], rest[1:]
        command.make_context(command.name, rest)
    except typer.Exit:
        return "it only explains itself"
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return ""


def test_every_document_has_commands_and_most_are_run() -> None:
    """Nothing is left out by a tag that is not meant."""
    assert {each.document for each in COMMANDS} == set(DOCUMENTS)
    assert len(TO_RUN) > len(COMMANDS) / 2


BLOCKS = """
Text, and a line

    ./orion nodes · ./orion ask "Why?"   # a comment

<!-- only parsed: takes a Pi -->

    sudo ./orion up --port \\
        7

- a list
    that goes on

    answered      42 of 42

```sh
orion models
```

```toml
orion = 1
```
"""


def test_the_blocks_of_a_document_are_found() -> None:
    """Indented and fenced, joined and beside each other; what is no command is none."""
    assert [(each.line, each.words, each.reason) for each in commands_in("d", BLOCKS)] == [
        (4, ("orion", "nodes"), ""),
        (4, ("orion", "ask", "Why?"), ""),
        (8, ("sudo", "./orion", "up", "--port", "7"), "takes a Pi"),
        (17, ("orion", "models"), ""),
    ]
    with pytest.raises(ValueError, match="d:2: No closing quotation"):
        commands_in("d", '\n    orion ask "Why\n')


def test_a_wrong_command_is_found(tmp_path: Path) -> None:
    """Control: an option, a command, a subcommand that do not exist; one that cannot do what it should."""
    assert "--colour" in parsed(("nodes", "--colour"))
    assert "nodez" in parsed(("nodez",))
    assert "exprt" in parsed(("log", "exprt", "x.jsonl"))
    assert "FILE" in parsed(("log", "import"))
    assert parsed(("gateway", "--colour"))
    code, _, err = tried(tmp_path, ["replay", "incident.jsonl.gz"])
    assert code not in ENDED
    assert "Traceback" not in err
