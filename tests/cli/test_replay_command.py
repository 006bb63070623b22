"""`orion replay` and its commands, `--at` and `--file`, `log export`, `import` and `tail`."""

from __future__ import annotations

import gzip
import io
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orion_streams.cli import log_sources
from orion_streams.model.state import Grid, Speed
from orion_streams.replay.compare_states import changes
from tests.cli.conftest import Orion
from tests.cli.run_cli import TOML, environment

Read = Callable[..., Any]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def recording(orion: Orion, grid_toml: Path, home: Path) -> Path:
    """The log of the reads, exported."""
    code, out, err = orion("log", "export", "log.jsonl.gz")
    assert (code, err) == (0, "")
    assert out.endswith("log.jsonl.gz\n")
    return home / "log.jsonl.gz"


def test_a_file_is_replayed_as_the_log_is(orion: Orion, recording: Path) -> None:
    """The same figures from Redis and from the file, with all keys, and exit 0."""
    live, filed = ((orion("replay", *words, "--json")) for words in ((), (str(recording),)))
    found = [msgspec.json.decode(out) for _, out, _ in (live, filed)]
    assert live[0] == filed[0] == 0
    for each in found:
        assert each.pop("events_per_s") > 0
        assert 0 < each.pop("decode_ratio") < 1
    assert found[0] == found[1]
    named = {"events", "decisions", "diverged", "first_divergence", "older", "older_deciders", "snapshots"}
    assert set(found[0]) == named
    assert found[0]["decisions"] > 3
    assert (found[0]["diverged"], found[0]["first_divergence"]) == (0, None)
    code, out, _ = orion("replay", "verify", str(recording))
    assert code == 0
    assert (
        out
        == f"{found[0]['decisions']} decisions recomputed from {found[0]['events']} events: none differ\n"
    )


@pytest.mark.parametrize("what", ["nodes", "models", "ps", "plan"])
def test_a_read_of_a_file_is_that_of_its_end(read: Read, recording: Path, what: str) -> None:
    """What a read shows of the file is what it shows of the log at that position."""
    last = read("log")[-1]["position"]
    filed = read(what, "--file", str(recording))
    assert filed == read(what, "--at", "end") == read(what, "--at", str(last))


def test_the_grid_as_it_was(read: Read, recording: Path) -> None:
    """At position 0 there is nothing, and a node is heard of with its first sample."""
    assert read("nodes", "--at", "0") == []
    first = first_sample(read)
    for words in ((), ("--file", str(recording))):
        heard = {
            row["node"]: row["heard_ms_ago"]
            for row in read("nodes", "--at", str(first["position"]), *words)
        }
        assert heard[first["node"]] is not None
        assert None in heard.values()


def test_a_request_is_explained_from_a_file(read: Read, recording: Path) -> None:
    """All that the log says of it, the file says, too."""
    rows = read("log", "--from", "1", "-n", "100000")
    asked = sorted({row["request"] for row in rows if row["event"] == "request.accepted"})
    for request in asked:
        filed, live = read("explain", request, "--file", str(recording)), read("explain", request)
        same = [
            name for name in live if name not in ("deadline_in_ms", "look", "outcome")
        ]  # of the present
        assert len(same) > 5
        assert [filed[name] for name in same] == [live[name] for name in same]
    assert len(asked) > 1


def test_an_error_ends_what_routing_would_have_gone_on_with(orion: Orion) -> None:
    """A node would have taken it once more: that is not why it ended, and not said."""
    code, out, _ = orion("explain", "refused", "--file", str(GOLDEN / "poison.jsonl.gz"))
    assert code == 0
    assert out.splitlines()[-1].endswith("ended as an error: refused")


def test_the_difference_of_two_moments(orion: Orion, read: Read, recording: Path) -> None:
    """By data and in words; none between a moment and itself."""
    found = read("replay", "diff", "1", "end")
    assert found["before"] == 1
    assert any(change["path"].startswith("nodes.master") for change in found["changes"])
    assert read("replay", "diff", "1", "end", str(recording)) == found
    assert orion("replay", "diff", "5", "5")[1] == "from position 5 to 5: no changes\n"
    _, out, _ = orion("replay", "diff", "0", "end")
    assert out.startswith("from position 0 to ") and ": before the log begins to " in out
    assert "\nRules\n  the first rules came into force, with 4 nodes\n" in out
    assert "\nmaster\n  is new\n" in out
    heard = str(first_sample(read)["position"])
    _, out, _ = orion("replay", "diff", heard, "end")
    assert re.match(r"from position \d+ to \d+: \d\d:\d\d:\d\d to \d\d:\d\d:\d\d, \d", out), out
    assert re.search(r"\n\d+ values changed; --json has each\n$", out)
    assert "heard_ms" not in out and "{" not in out
    all_of_it = read("replay", "diff", heard, "end")["changes"]
    assert any(change["path"].endswith("heard_ms") for change in all_of_it)


def test_a_key_of_several_parts_is_joined_with_spaces() -> None:
    """Speeds are named by node and model, footprints by digest, context length and slots."""
    found = changes(Grid(), Grid(speeds={("pi", "gemma3:270m"): Speed()}, footprints={("abc", 4096, 1): 7}))
    assert [each.path for each in found] == ["speeds.pi gemma3:270m", "footprints.abc 4096 1"]


def first_sample(read: Read) -> Any:
    """The row in which the first node is heard of."""
    rows = read("log", "--from", "1", "-n", "100000")
    return next(row for row in rows if row["event"] == "node.sampled")


def test_step_by_step(orion: Orion, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards, backwards, to a place, a decision, a text; no command is said; the input's end leaves."""
    commands = (
        "n\n\nb\n+2\n-1\ng 10\nf nowhere\nd\nf request.completed\nnodes\nps\nx\ng never\ng 999999\n?\n"
        "-999\n+9999\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(commands))
    code, out, err = orion("replay", "step", str(recording))
    assert (code, err) == (0, "")
    for words in (
        "number 1,", "request.accepted", "NODE", "x: no such command", "never: expected a position",
        "999999: not in the log", "the log begins here", "the log ends here", "the next commit",
    ):  # fmt: skip
        assert words in out, words
    assert re.search(r"(\d+/\d+> )none up to the log's end\n\1", out)


def test_the_tail_of_a_file(orion: Orion, read: Read, recording: Path) -> None:
    """Its last events, as the log shows them."""
    code, out, _ = orion("log", "tail", "--file", str(recording), "-n", "5", "--json")
    assert code == 0
    assert [msgspec.json.decode(line) for line in out.splitlines()] == read("log", "-n", "5")


def test_a_part_is_exported_and_imported(
    orion: Orion, read: Read, recording: Path, home: Path, prefix: str, valkey_url: str
) -> None:
    """A part of a file under another prefix: read from there it is the same grid."""
    code, out, _ = orion("log", "export", "part.jsonl", "--from", "5", "--file", str(recording), "--json")
    part: Any = msgspec.json.decode(out)
    assert code == 0
    words = ("--from", "1999-01-01", "--to", "2999-01-01", "--file", str(recording))
    assert orion("log", "export", "all.jsonl.gz", *words)[0] == 0
    assert (home / "all.jsonl.gz").read_bytes() == recording.read_bytes()
    assert part["first"] <= 5
    code, out, err = orion("log", "import", "part.jsonl", "--prefix", prefix)
    assert (code, err) == (0, "")
    assert out.startswith(f"positions {part['first']} to {part['last']} are in {prefix}log, to be read ")
    assert f'prefix = "{prefix}"' in out
    before = read("nodes", "--at", "end")
    (home / "streams.toml").write_text(TOML.format(prefix=prefix, url=valkey_url))
    assert read("nodes", "--at", "end") == before
    assert read("replay")["diverged"] == 0
    assert orion("log", "import", "part.jsonl")[0] == 78


def test_a_report_is_one_file(orion: Orion, recording: Path, grid_toml: Path, home: Path) -> None:
    """From the file and from the log; never over another one unless asked to; nothing half written."""
    code, out, _ = orion("replay", "report", str(recording), "-o", "page.html", "--json")
    found: Any = msgspec.json.decode(out)
    page = home / "page.html"
    assert (code, found["bytes"]) == (0, page.stat().st_size)
    assert '"master"' in page.read_text()
    assert '"simulated":[]' in page.read_text()
    assert str(home) not in page.read_text()
    before = page.read_bytes()
    assert orion("replay", "report", "-o", "page.html")[0] == 78
    assert page.read_bytes() == before
    grid_toml.write_text(f"{grid_toml.read_text()}simulated = true\n")  # the last table: [nodes.never]
    code, out, _ = orion("replay", "report", "-o", "page.html", "--force")
    assert code == 0
    assert '"simulated":["never"]' in page.read_text()
    assert out.startswith(f"page.html: {found['events']} events")
    assert orion("replay", "report", "-o", "page.pdf")[0] == 78
    assert orion("replay", "report", "-o", "nowhere/page.html")[0] == 1
    assert sorted(each.name for each in home.iterdir() if "page" in each.name) == ["page.html"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("replay", "nowhere.jsonl"), 78, "nowhere.jsonl: there is no such file"),
        (("replay", "verif"), 2, "Did you mean 'verify'?"),
        (("replay", "whatif", "--set", "policy.spill_ms=abc"), 78, "as in streams.toml: invalid value; "),
        (("replay", "whatif", "--policy", "no.toml"), 78, "no.toml: cannot be read: No such file or dir"),
        (("replay", "x" * 300 + ".jsonl"), 78, "cannot be looked for: [Errno 36] File name too long"),
        (("replay", "~nobody-has-this-name/log.jsonl"), 78, "cannot be looked for"),
        (("nodes", "--at", "²"), 78, "expected a position (1234), a time"),
        (("nodes", "--at", "9" * 5_000), 78, "not in the log, which has positions"),
        (("replay", "whatif", "--set", "policy.retry_ms=" + "9" * 5_000), 78, "as in streams.toml"),
        (("replay", "report", "-o", "x" * 300 + ".html"), 78, "cannot be written: File name too long"),
        (("replay", "report", "-o", "log.jsonl.gz/x.html"), 1, "cannot be written: Not a directory"),
        (("replay", "report", "-o", "~nobody-has-this-name/x.html"), 78, "x.html: "),
        (("log", "export", "~nobody-has-this-name/x.jsonl"), 78, "x.jsonl: "),
        (("explain", "q\udcff"), 78, "'q\\udcff': expected a name in UTF-8"),
        (("nodes", "--at", "25:99"), 78, "25:99: expected a position (1234), a time"),
        (("nodes", "--at", "123456789"), 78, "123456789: not in the log"),
        (("nodes", "--at", "1999-01-01"), 78, "1999-01-01: not in the log, which goes from 20"),
        (("nodes", "--at", "2999-01-01"), 78, "2999-01-01: not in the log, which goes from 20"),
        (("replay", "diff", "1999-01-01", "end", "log.jsonl.gz"), 78, "1999-01-01: not in the log, which"),
        (("replay", "log.jsonl.gz", "--redis", "redis://127.0.0.1:1/0"), 78, "a file and --redis"),
        (("replay", "streams.toml"), 1, "expected a file .jsonl or .jsonl.gz"),
        (("log", "export", "log.txt"), 78, "expected a name that ends with .jsonl or .jsonl.gz"),
        (("log", "export", "x.jsonl", "--from", "9", "--to", "3"), 78, "9 to 3): nothing of"),
        (("log", "export", "x.jsonl", "--to", "1999-01-01"), 78, "to 0): nothing of"),
        (("log", "export", "log.jsonl.gz"), 78, "is there already: name another file, or add --force"),
        (("replay", "whatif", "log.jsonl.gz", "--set", "policy.temp_mx_mc=70000"), 78, "policy.temp_mx_mc"),
        (
            ("replay", "whatif", "log.jsonl.gz", "--set", "policy.temp_return_mc=75000"),
            78,
            "policy.temp_return_mc",
        ),
        (("replay", "diff", "1"), 2, "Missing argument 'B'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    orion: Orion, recording: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """The exit code, and what to do."""
    found, _, err = orion(*words)
    assert found == code
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("replay",),
        ("replay", "whatif", "--no-simulate"),
        ("replay", "report"),
        ("replay", "step", "--at", "end"),
        ("explain", "q1", "--file"),
        ("log", "tail", "--file"),
        ("log", "export", "other.jsonl", "--file"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_changed_input_is_named_by_file_and_line(
    orion: Orion,
    recording: Path,
    home: Path,
    words: tuple[str, ...],
    last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever reads the log: exit 1, and the line at which the running hash breaks, also the last."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    orion("log", "export", "log.jsonl", "--file", str(recording))
    text = (home / "log.jsonl").read_bytes()
    assert b'"ram_used_mb":2000' in text
    changed = text.replace(b'"ram_used_mb":2000', b'"ram_used_mb":2001', 1)
    (home / "log.jsonl").write_bytes(text[:-2] + b',"more":1}\n' if last else changed)
    code, _, err = orion(*words, "log.jsonl")
    assert code == 1
    assert re.match(r"orion: log\.jsonl: line \d+: ", err), err
    assert not (home / "incident.html").exists()
    assert not (home / "other.jsonl").exists()


@pytest.mark.parametrize(
    "spoilt", [b"garbage", b'{"event":"committed","number":"x"}', b'{"event":"no.such"}']
)
@pytest.mark.parametrize("simulate", ["--simulate", "--no-simulate"])
def test_what_if_names_what_is_no_event(
    orion: Orion, recording: Path, home: Path, spoilt: bytes, simulate: str
) -> None:
    """Wherever it stands: its position, the file and a line; no traceback."""
    lines = gzip.decompress(recording.read_bytes()).splitlines()
    for at in (1, len(lines) // 2, len(lines) - 1):
        (home / "spoilt.jsonl").write_bytes(b"\n".join([*lines[:at], spoilt, *lines[at + 1 :], b""]))
        code, _, err = orion("replay", "whatif", "spoilt.jsonl", simulate)
        assert code == 1
        assert re.match(r"orion: spoilt\.jsonl: line \d+: ", err), err
        assert err.count("\n") == 1


def test_ctrl_c_ends_the_wait_for_a_command(recording: Path, home: Path) -> None:
    """At once, without an Enter."""
    words = [sys.executable, "-m", "orion_streams.cli", "replay", "step", str(recording)]
    with subprocess.Popen(
        words, env=environment(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().endswith(b"shows the commands.\n"):
            assert process.poll() is None
        while process.stdout.read(2) != b"> ":
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_times_just_outside_of_the_log_are_its_ends(
    orion: Orion, read: Read, recording: Path, home: Path
) -> None:
    """People say 14:05 of a log that begins seconds later; a minute off is refused, or clipped."""
    rows = read("log", "--from", "1", "-n", "100000")
    began, ended = (datetime.fromtimestamp(row["server_ms"] / 1000) for row in (rows[0], rows[-1]))
    near, far = timedelta(seconds=50), timedelta(seconds=70)
    file = ("--file", str(recording))
    assert read("nodes", "--at", (began - near).isoformat(), *file) == []
    assert read("nodes", "--at", (ended + near).isoformat(), *file) == read("nodes", "--at", "end", *file)
    ended_at = ended.time().isoformat(timespec="milliseconds")
    assert read("nodes", "--at", ended_at, *file) == read("nodes", "--at", "end", *file)
    for when in (began - far, ended + far):
        assert orion("nodes", "--at", when.isoformat(), *file)[0] == 78
    span = ("--from", (began - far).isoformat(), "--to", (ended + far).isoformat())
    assert orion("log", "export", "far.jsonl", *span, *file)[0] == 0
    to_come = (ended + timedelta(minutes=5)).time().isoformat(timespec="seconds")
    code, _, err = orion("log", "export", "more.jsonl", "--from", to_come, *file)
    assert (code, "not in the log, which goes from" in err) == (78, True)
    assert orion("log", "export", "up-to.jsonl", "--to", to_come, *file)[0] == 0
    assert (home / "up-to.jsonl").read_bytes() == (home / "far.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("start", "end", "to_come"),
    [
        (None, "13:00", True),
        ("1999-01-01", "13:00", True),
        ("23:00", "1:00", True),
        ("23:07", "23:06", False),
        ("14:00", "13:00", False),
        ("9:00", "21:00", True),
        (None, "1999-01-01", False),
        (None, "17", False),
    ],
)
def test_an_end_before_the_start_may_be_to_come(start: str | None, end: str, to_come: bool) -> None:
    """A night is a span, a slip is none."""
    assert log_sources.is_to_come(end, start) is to_come


def test_a_changed_decision_exits_4_with_the_state(orion: Orion, recording: Path, home: Path) -> None:
    """The first divergence in full: where, both decisions, and the nodes and requests that led there."""
    orion("log", "export", "log.jsonl")
    lines = (home / "log.jsonl").read_bytes().split(b"\n")
    rows = [line for line in lines if line and not line.startswith(b'{"event":"log.segment"')]
    forged = forge(rows)
    header: dict[str, Any] = msgspec.json.decode(lines[0])
    text = b"\n".join([msgspec.json.encode({**header, "last_hash": forged[1]}), *forged[0], b""])
    (home / "forged.jsonl").write_bytes(text)
    code, out, err = orion("replay", "forged.jsonl")
    assert code == 4
    assert "differ" in out and "none" not in out
    assert "first at position" in err
    assert '"node":"edge"' in err
    assert "the state that led there:" in err
    assert "master" in err
    code, out, _ = orion("replay", "forged.jsonl", "--json")
    found: Any = msgspec.json.decode(out)
    assert code == 4
    assert found["first_divergence"]["state"]["nodes"]["master"]["rules"]["tiers"] == [1]


def forge(rows: list[bytes]) -> tuple[list[bytes], str]:
    """A first routed request sent elsewhere, with the chain mended; the rows and the last hash."""
    from orion_streams.protocol.commit_builder import GENESIS, chain  # noqa: PLC0415 - beside its use

    digest, done, forged = GENESIS, False, []
    for row in rows:
        event: dict[str, Any] = msgspec.json.decode(row)
        if event["event"] == "committed":
            event["hash"] = digest.hex()
        if event["event"] == "request.routed" and not done:
            event["node"], done = "edge", True
        raw = msgspec.json.encode(event)
        digest = chain(digest, raw)
        forged.append(raw)
    assert done
    return forged, digest.hex()
