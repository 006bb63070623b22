"""The tables of states that the code obeys, as Markdown: `python -m tests.architecture_tables` writes
them into ARCHITECTURE.md, between the markers that name each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from orion_streams.agents import job, ollama_blame
from orion_streams.projections import attempts, breaker, requests

DOCUMENT = Path(__file__).parents[1] / "ARCHITECTURE.md"


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def by_event(transitions: Mapping[str, tuple[tuple[str, ...], str | None]]) -> str:
    """Return a table of what each event does in which states."""
    return table(
        ("event", "counts in", "state after it"),
        ((event, ", ".join(states), after or "the same") for event, (states, after) in transitions.items()),
    )


def of_requests() -> str:
    """Return the life of a request."""
    tags = {str(kind.__struct_config__.tag): row for kind, row in requests.TRANSITIONS.items()}
    return by_event(tags)


def of_jobs() -> str:
    """Return the life of a job in the agent: a row a phase, a column an input."""
    heads = ("phase", "means", *(each.name.lower() for each in job.Input))
    rows = (
        (phase, job.MEANINGS[phase], *(job.TRANSITIONS.get((phase, each), "") for each in job.Input))
        for phase in job.Phase
    )
    return table(heads, rows)


def of_faults() -> str:
    """Return whose fault an answer of Ollama is: the first row that fits."""
    heads = ("status", "its error has", "code", "whose fault", "means")
    rows = (
        (
            ", ".join(map(str, each.statuses)) or "any other",
            " or ".join(f"`{word}`" if word else "any words" for word in each.words) or "any, or none",
            f"`{each.code}`",
            each.blame,
            each.meaning,
        )
        for each in ollama_blame.FAULTS
    )
    return table(heads, rows)


def tables() -> dict[str, str]:
    """Return every table by the name of its markers."""
    return {
        "request": of_requests(),
        "attempt": by_event(attempts.TRANSITIONS),
        "breaker": by_event(breaker.TRANSITIONS),
        "job": of_jobs(),
        "fault": of_faults(),
    }


def written(document: str) -> str:
    """Return the document with its tables as the code has them. Raises KeyError for an unknown marker."""
    made = tables()
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}",
        document,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
