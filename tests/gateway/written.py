"""Lines of an answer to write in any dialect, and what clients read of it."""

import json
from collections.abc import Iterable
from typing import Any

from orion_streams.gateway.answers import Dialect, Line, Metrics

NOW_NS = 1_795_422_746_000_000_000
CALLS: list[dict[str, Any]] = [
    {"id": "c1", "function": {"name": "f", "arguments": {"a": "<1>"}}},
    {"function": {"name": "g", "arguments": {}}},
]
METRICS = Metrics(900, 80, 7, 60, 5, 40)
END = Line(NOW_NS, done=True, done_reason="stop", metrics=METRICS, orion={"node": "pi1"})
SPOKEN = [
    Line(NOW_NS, thinking="hm "),
    Line(NOW_NS, thinking="so"),
    Line(NOW_NS, text="Hel"),
    Line(NOW_NS, text="lo"),
    *(Line(NOW_NS, tool_calls=[call]) for call in CALLS),
    END,
]
WHOLE = Line(
    NOW_NS,
    text="Hello",
    thinking="hm so",
    tool_calls=CALLS,
    done=True,
    done_reason="stop",
    metrics=METRICS,
    orion={"node": "pi1"},
)


def streamed(dialect: Dialect, lines: Iterable[Line] = SPOKEN) -> str:
    """A stream that waits for each of its lines."""
    parts = [dialect.heartbeat(NOW_NS) + dialect.part(line) for line in lines]
    return b"".join(parts).decode()


def events(stream: str) -> list[tuple[str, Any]]:
    """The events that a client of server-sent events sees: names and data; comments are no events."""
    seen = []
    for block in stream.split("\n\n"):
        fields = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
        named = {name: value for name, _, value in fields}
        if "data" in named:
            data = named["data"]
            seen.append((named.get("event", ""), json.loads(data) if data.startswith("{") else data))
    return seen


def data(stream: str) -> list[Any]:
    """The data of its events."""
    return [value for _, value in events(stream)]
