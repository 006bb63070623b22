"""Records the golden incidents anew; no test does. See README.md for when.

    python -m tests.golden.record [--text] NAME… | all

`--text`: the recordings stay, only what is told of them is written anew.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import textwrap
from pathlib import Path

from orion_streams.eventlog.jsonl import FORMAT, Header, deflated, pack
from orion_streams.model.commit import Snapshot
from orion_streams.protocol.commit_builder import GENESIS
from tests.golden.incidents import INCIDENTS, Incident
from tests.golden.scene import Scene
from tests.golden.telling import telling

FOLDER = Path(__file__).parent
SUFFIX = ".jsonl.gz"
WIDTH = 106


def packed(scene: Scene, trimmed: bool) -> bytes:
    """The scene's log as a recording: a segment from each snapshot to the next. `trimmed`: without what is
    before the first one."""
    begins = [Snapshot(0, GENESIS.hex(), b""), *scene.snapshots]
    ends = [each.position for each in scene.snapshots] + [len(scene.rows)]
    parts = [(before, end) for before, end in zip(begins, ends, strict=True) if before.position < end]
    text = b""
    for before, end in parts[1:] if trimmed else parts:
        header = Header(
            orion_log=FORMAT,
            prefix=scene.config.prefix,
            first=before.position + 1,
            hash=before.digest,
            snapshot=deflated(before.grid) if before.grid else b"",
            until=0 if text else len(scene.rows),
        )
        text += pack(header, scene.rows[before.position : end])[1]
    return text


def record(name: str, folder: Path = FOLDER) -> Path:
    """Let the incident happen and write both files; the recording's path."""
    incident = INCIDENTS[name]
    scene = incident.play()
    path = folder / f"{name}{SUFFIX}"
    path.write_bytes(gzip.compress(packed(scene, incident.trimmed), compresslevel=9, mtime=0))
    write_text(path, about(incident, scene))
    return path


def about(incident: Incident, scene: Scene) -> str:
    """The first lines of a text: what it is a recording of. They are not told anew."""
    said = f"{incident.about} {incident.remark(scene)}".strip()
    return "".join(f"# {line}\n" for line in textwrap.wrap(said, WIDTH))


def text_of(recording: Path) -> Path:
    """Where the text about a recording stands."""
    return recording.with_name(recording.name.removesuffix(SUFFIX) + ".txt")


def comment_of(text: str) -> str:
    """Its first lines, what it is a recording of."""
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith("# "))


def write_text(recording: Path, comment: str) -> None:
    """What is told of a recording, below the comment."""
    text_of(recording).write_text(f"{comment}\n{telling(recording)}", encoding="utf-8")


def main() -> None:
    """Record what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[*INCIDENTS, "all"], metavar="NAME")
    parser.add_argument("--text", action="store_true")
    words = parser.parse_args()
    for name in INCIDENTS if "all" in words.names else words.names:
        path = FOLDER / f"{name}{SUFFIX}"
        if words.text:
            write_text(path, comment_of(text_of(path).read_text(encoding="utf-8")))
        else:
            record(name)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
