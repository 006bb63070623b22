"""Which events of the log a person wants to see. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from msgspec import Struct
from msgspec.structs import replace

from orion_streams.cli.log_lines import Line
from orion_streams.cli.request_names import request_of
from orion_streams.errors import ConfigError
from orion_streams.model import events as ev
from orion_streams.model.events import tag_of
from orion_streams.model.state import Grid

TAGS = tuple(sorted(str(kind.__struct_config__.tag) for kind in ev.AnyEvent.__args__))
HEAD, SAMPLE = "committed", "node.sampled"
Over = ev.RequestCompleted | ev.RequestFailed | ev.RequestExpired | ev.RequestCancelled


class Wanted(Struct, frozen=True):
    """What is asked for: events of these names, about these nodes, requests ("client/id") and models; where
    none is named, any. `samples`: health entries and commits without an event are wanted, too, not only by
    their names."""

    events: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    requests: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    samples: bool = True

    @property
    def any_event(self) -> bool:
        """Whether nothing is filtered but samples."""
        return self.any_subject and not self.events

    @property
    def all_events(self) -> bool:
        """Whether no event is left out."""
        return self.samples and self.any_event

    @property
    def any_subject(self) -> bool:
        """Whether events about anything are wanted."""
        return not (self.nodes or self.requests or self.models)


def event_names(asked: Iterable[str]) -> frozenset[str]:
    """Return the events that are meant by their names, by patterns such as "attempt.*", or by the part
    before the dot. Raise ConfigError for what means none."""
    names: set[str] = set()
    for word in asked:
        known = [tag for tag in TAGS if fnmatchcase(tag, word) or word == tag.partition(".")[0]]
        if not known:
            raise ConfigError(f"--event {word}: there is no such event; known are {', '.join(TAGS)}")
        names.update(known)
    return frozenset(names)


class About(Struct, frozen=True):
    """The model of an open request, and the node that has it."""

    model: str = ""
    node: str = ""


class LogFilter:
    """Picks lines in the order of the log. The head of a commit goes with its first event, if all kinds of
    events are wanted."""

    def __init__(self, wanted: Wanted, grid: Grid) -> None:
        """`grid`: the table before the first line."""
        self._wanted = wanted
        self._open = {key: About(row.model, row.node) for key, row in grid.open.items()}
        self._head: Line | None = None

    def take(self, line: Line) -> list[Line]:
        """Return what is shown now: nothing, the line, or the line behind the head of its commit."""
        wanted, event = self._wanted, line.event
        if wanted.all_events:
            return [line]
        if isinstance(event, ev.Committed):
            return self._take_head(line)
        if not self._matches(event):
            return []
        head, self._head = self._head, None
        return [line] if head is None else [head, line]

    def _take_head(self, line: Line) -> list[Line]:
        if not self._wanted.any_subject:
            return []
        if self._wanted.events:
            return [line] if HEAD in self._wanted.events else []
        self._head = line
        return []

    def _matches(self, event: ev.AnyEvent) -> bool:
        wanted, tag = self._wanted, tag_of(event)
        about = self._follow(event)
        if wanted.events:
            if tag not in wanted.events:
                return False
        elif tag == SAMPLE and not wanted.samples:
            return False
        node = getattr(event, "node", "") or node_of_stream(event) or about.node
        return (
            (not wanted.nodes or node in wanted.nodes)
            and (not wanted.requests or request_of(event) in wanted.requests)
            and (not wanted.models or getattr(event, "model", about.model) in wanted.models)
        )

    def _follow(self, event: ev.AnyEvent) -> About:
        """Return what was known of the event's request before the event."""
        key = str(getattr(event, "request", ""))
        about = self._open.get(key, About())
        match event:
            case ev.RequestAccepted():
                self._open[key] = About(event.model)
            case ev.RequestRouted() if key in self._open:
                self._open[key] = replace(about, node=event.node)
            case ev.AttemptFailed() | ev.AttemptAbandoned() if key in self._open:
                self._open[key] = replace(about, node="")
            case _ if isinstance(event, Over):
                self._open.pop(key, None)
            case _:
                pass
        return about


def node_of_stream(event: ev.AnyEvent) -> str:
    """Return the node whose agent wrote an entry that could not be read, else ""."""
    if not isinstance(event, ev.InputRejected):
        return ""
    kind, _, node = event.stream.partition(":")
    return node if kind in ("health", "results") else ""
