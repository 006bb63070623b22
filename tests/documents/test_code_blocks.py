"""Every command of the documents is one: those that can be run here are run once, the others are parsed."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import signal
import socket
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
from tests.documents.code_blocks import TAG, Command, blocks_in, commands_in, commands_of, joined
from tests.helpers import WAIT_S

DOCS = ROOT / "docs"
DOCUMENTS = ("README.md", "RELIABILITY.md", *(f"docs/{each.name}" for each in sorted(DOCS.glob("*.md"))))
"""All of them: a further document needs nothing."""
PROGRAMS_RUN = ("orion", "curl", "cp")
"""What a test may start: all else has a tag."""
ENDLESS: dict[tuple[str, ...], float] = {
    ("up",): WAIT_S,
    ("router",): WAIT_S,
    ("agent",): WAIT_S,
    ("gateway",): WAIT_S,
    ("alerts", "run"): WAIT_S,
    ("log", "--follow"): 3.0,
}
"""Commands that go on until Ctrl-C, by the words that make them so, and for how many seconds to wait until
one says something, or tells systemd that it is ready. A log may have nothing to say."""
ENDED = (EXIT_OK, EXIT_DEGRADED, 128 + signal.SIGINT)
"""Exit codes: done, the doctor has found something, interrupted."""
MUCH = 40
PAGE = "http://127.0.0.1:11435"
BACKUP = "/var/backups/orion"


def commands() -> list[Command]:
    """All commands of all documents."""
    return [
        command
        for name in DOCUMENTS
        for command in commands_in(name, (ROOT / name).read_text(encoding="utf-8"))
    ]


COMMANDS = commands()
TO_RUN = [
    each
    for number, each in enumerate(COMMANDS)
    if not each.reason
    and each.words not in [other.words for other in COMMANDS[:number] if not other.reason]
]
"""Each once, however often it stands there."""


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
        self.files = home / "files"
        self.files.mkdir()
        for name in ("streams.toml", "keys.json"):
            (self.files / name).touch()
        (home / "archive").mkdir()
        ended = time.time()
        moments = {"14:00": began, "14:05": (began + ended) / 2, "14:30": ended}
        self.values = {
            name: time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at)) for name, at in moments.items()
        }
        self.values |= {
            BACKUP: "archive",
            f"{BACKUP}/": "../archive",
            "ID": "brain/q42",
            "DIR": "archive",
            "FILE": "incident.jsonl.gz",
        }

    async def _ask(self) -> None:
        """Ask what the documents speak of."""
        async with AsyncClient(self.up.ready["redis_url"], "brain") as client:
            options: dict[str, Any] = {"num_predict": 4}
            for name in ("q41", "q42", "q43"):
                await client.generate("gemma3:270m", "Why is the sky blue?", id=name, options=options)

    def words(self, words: Sequence[str]) -> list[str]:
        """The words of a command, with what is there in place of what the document makes up."""
        gateway_url = self.up.ready["gateway_url"]
        found = [self.values.get(word, word.replace(PAGE, gateway_url)) for word in words]
        for before, after in itertools.pairwise(found):
            if before in ("export", "-o"):
                (self.home / after).unlink(missing_ok=True)  # another document has written it
        return found

    def run(self, command: Command) -> tuple[int, str, str]:
        """Run a command; return its exit code, stdout and stderr."""
        words = self.words(command.words)
        match words[0]:
            case "orion":
                return tried(self.home, words[1:])
            case "curl":
                answer = fetched(words)
                return (EXIT_OK if answer.is_success else answer.status_code), answer.text, ""
            case _:
                done = subprocess.run(
                    words, cwd=self.files, capture_output=True, text=True, check=False, timeout=WAIT_S
                )
                return done.returncode, done.stdout, done.stderr


def fetched(words: Sequence[str]) -> httpx.Response:
    """Ask as curl would with these words."""
    [url] = [word for word in words if word.startswith("http")]
    values = {before: after for before, after in itertools.pairwise(words) if before in ("-H", "-d", "-X")}
    headers = dict([values["-H"].split(": ", 1)]) if "-H" in values else {}
    method = values.get("-X", "POST" if "-d" in values else "GET")
    return httpx.request(
        method, url, headers=headers, content=values.get("-d"), timeout=WAIT_S, trust_env=False
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage of all documents: a command finds what the ones before it have left."""
    stage = Stage(tmp_path_factory.mktemp("documents"))
    yield stage
    stage.up.end(signal.SIGTERM)


def patience_s(words: Sequence[str]) -> float:
    """For how long to wait for a sign of a command that goes on until Ctrl-C; 0 for one that ends."""
    if "--once" in words or "--json" in words:
        return 0.0
    found = (wait_s for each, wait_s in ENDLESS.items() if set(each) <= set(words) and words[0] == each[0])
    return next(found, 0.0)


def interrupted(home: Path, words: Sequence[str], wait_s: float) -> tuple[int, str, str]:
    """Start a command, interrupt it at its first sign, and return its exit code, stdout and stderr."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0orion-documents-{os.getpid()}")
        process = start(home, *words, NOTIFY_SOCKET=f"@orion-documents-{os.getpid()}")
        assert process.stdout is not None
        signs: list[Any] = [process.stdout, systemd]
        select.select(signs, [], [], wait_s)
        process.send_signal(signal.SIGINT)
        return finish(process)


def tried(home: Path, words: Sequence[str]) -> tuple[int, str, str]:
    """Run one of orion's commands to its end, or until it has said something; another grid elsewhere."""
    if words == ["top"]:
        words = ["top", "--once"]  # there is no terminal
    if words == ["gateway"]:
        words = ["gateway", "--port", "0"]  # that of the document may be taken
    if words[0] == "up":
        home = home / "another"
        home.mkdir(exist_ok=True)
    wait_s = patience_s(words)
    return interrupted(home, words, wait_s) if wait_s else run(home, *words)


@pytest.mark.everything
@pytest.mark.parametrize("command", TO_RUN, ids=str)
def test_a_command_of_a_document_runs(stage: Stage, command: Command) -> None:
    """As it stands there, beside a grid: it ends well, and says no traceback."""
    code, out, err = stage.run(command)
    assert code in ENDED, out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("command", TO_RUN, ids=str)
def test_what_a_test_may_not_start_has_a_tag(command: Command) -> None:
    """Only these programs, and none as root; no pipes and no substitutions, which no shell would do."""
    assert command.words[0] in PROGRAMS_RUN
    assert not [word for word in command.words if word in ("|", ">", "<", "&") or "$(" in word]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.ours], ids=str)
def test_a_command_of_a_document_exists(command: Command) -> None:
    """Its name, its options, its arguments: whether it is run or not."""
    assert parsed(command.ours) == ""


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


def test_every_tag_is_before_a_block_and_much_is_run() -> None:
    """Nothing is left out by a tag that is not meant; the documents of this grid are all looked at."""
    tags = [each for name in DOCUMENTS for each in TAG.findall((ROOT / name).read_text(encoding="utf-8"))]
    assert {each.reason for each in COMMANDS} - {""} == set(tags)
    assert {"README.md", "docs/OBSERVE.md", "docs/UPGRADE.md"} <= {each.document for each in TO_RUN}
    assert len(TO_RUN) > MUCH


def hindered(document: str, text: str) -> list[str]:
    """What keeps a block of a document from being pasted whole: a word that no shell takes between two
    commands, and a command that goes on until Ctrl-C, before others."""
    found = []
    for first, reason, lines in blocks_in(text):
        commands = [
            each
            for number, line in joined(first, lines)
            for each in commands_of(document, number, line, reason)
        ]
        found += [f"{each}: not the last" for each in commands[:-1] if goes_on(each.ours)]
        found += [f"{each}: pasted, it is one command" for each in commands if "·" in each.words]
    return found


def goes_on(words: Sequence[str]) -> bool:
    """Whether a command of ours holds the terminal until somebody ends it."""
    return bool(words) and (patience_s(words) > 0 or words in (("top",), ("chat",)))


def test_a_block_can_be_pasted_whole() -> None:
    """By whoever copies what stands there; beside it the control."""
    assert [
        each for name in DOCUMENTS for each in hindered(name, (ROOT / name).read_text(encoding="utf-8"))
    ] == []
    bad = "\n    ./orion up --simulated\n    ./orion ps · ./orion nodes\n    ./orion top\n"
    assert [each.rpartition(": ")[2] for each in hindered("d", bad)] == [
        "not the last",
        "pasted, it is one command",
    ]


BLOCKS = """
Text, and a line

    ./orion nodes; ./orion ask "Why?"   # a comment

<!-- only parsed: takes a Pi -->

    sudo ./orion up --port \\
        7
    cd orion && ./orion top; ./orion ps

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
        (8, ("sudo", "orion", "up", "--port", "7"), "takes a Pi"),
        (10, ("cd", "orion"), "takes a Pi"),
        (10, ("orion", "top"), "takes a Pi"),
        (10, ("orion", "ps"), "takes a Pi"),
        (18, ("orion", "models"), ""),
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
