"""A record of all that was ever written to the server's streams, for the checks: untrimmed, in order."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.model.commit import CURSOR, Commit
from orion_streams.model.state import parse_stream_id
from tests.cluster.world_clock import World

OLD_MS = 4_000
"""Health that was written so long ago was read, whatever a message takes, before anybody gets work."""


class Written(Struct, frozen=True):
    """An entry as it was written, or (with no fields) as it was trimmed."""

    stream: str
    id: str
    fields: dict[bytes, bytes]
    now_ms: int
    trimmed: bool = False


class Step(Struct, frozen=True):
    """A commit: how many events it logged, and how many entries of each input it took."""

    events: int
    taken: dict[str, int]
    overlooked: str = ""


class Journal:
    """Records what survives of the history."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.log: list[bytes] = []
        self.entries: list[Written] = []
        self.steps: list[Step] = []
        self._unread: dict[str, list[tuple[tuple[int, int], int]]] = {}
        self._place: dict[str, dict[str, int]] = {}
        self._marked = (0, 0, 0)

    def appended(self, stream: str, entry_id: str, fields: dict[bytes, bytes]) -> None:
        """Note an entry that was written."""
        if stream == "log":
            self.log.append(fields[b"event"])
            return
        self.entries.append(Written(stream, entry_id, fields, self._world.now_ms))
        if stream.startswith("health:"):
            unread = self._unread.setdefault(stream.partition(":")[2], [])
            unread.append((parse_stream_id(entry_id), self._world.now_ms))
        places = self._place.setdefault(stream, {"0-0": 0})
        places[entry_id] = len(places)

    def trimmed(self, stream: str, entry_id: str) -> None:
        """Note an entry of a reply stream that was trimmed: what it answered may be forgotten."""
        if stream.startswith("replies:"):
            self.entries.append(Written(stream, entry_id, {}, self._world.now_ms, True))

    def committed(self, commit: Commit, before: dict[str, str]) -> None:
        """Note a commit, which moved cursors from where they stood `before`."""
        taken = {
            stream: self._place[stream].get(commit.set[CURSOR + stream], 0)
            - self._place[stream].get(cursor, 0)
            for stream, cursor in before.items()
        }
        for stream in taken:
            kind, _, node = stream.partition(":")
            if kind == "health":
                upto = parse_stream_id(commit.set[CURSOR + stream])
                self._unread[node] = [row for row in self._unread.get(node, ()) if row[0] > upto]
        self.steps.append(Step(len(commit.events), taken, self._overlooked(commit)))

    def _overlooked(self, commit: Commit) -> str:
        """Return a node that gets work though its health has waited to be read for too long."""
        for out in commit.outs:
            kind, _, node = out.stream.partition(":")
            if kind == "work" and out.body is not None:
                waiting = self._unread.get(node, ())
                if waiting and self._world.now_ms - waiting[0][1] > OLD_MS:
                    return node
        return ""

    def mark(self) -> None:
        """Keep what was written until now, whatever is lost later."""
        self._marked = (len(self.log), len(self.entries), len(self.steps))

    def lose_tail(self) -> None:
        """Forget what was written since the mark."""
        log, entries, steps = self._marked
        gone = self.entries[entries:]
        del self.log[log:], self.entries[entries:], self.steps[steps:]
        for each in gone:
            if not each.trimmed:
                self._place[each.stream].pop(each.id, None)
        self._unread.clear()  # what of it waits again is a little newer than it seems

    def deleted(self, stream: str) -> None:
        """Count places anew in a stream that was deleted: what was not taken of it is lost."""
        self._place[stream] = {"0-0": 0}
        self._unread.pop(stream.partition(":")[2], None)
