"""Invariants of requests, work and replies: what clients and agents see."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.state import parse_stream_id
from orion_streams.protocol import agent_entries
from tests.cluster.cluster_grid import Cluster
from tests.cluster.cluster_house import EDGE, pieces_of, prompt_of
from tests.cluster.found import Found
from tests.cluster.journal import Written

TRIMMED = ev.RepliesTrimmed
TERMINAL = (b"done", b"error", b"expired", b"cancelled")


class Seen(Struct):
    """What was seen of a request so far. `work_id` and `attempt` are the last dispatched ones,
    `announced` the attempt that its reader knows of, `seq` the last token of it, `reply` the
    terminal reply."""

    asked_ms: int
    deadline_ms: int
    is_resent: bool = False
    work_id: str = ""
    attempt: int = 0
    announced: int = 1
    seq: int = 0
    reply: str = ""
    token_work_id: str = ""


class Watcher:
    """Checks the journal in order."""

    def __init__(self, cluster: Cluster, found: Found) -> None:
        self.found = found
        self.kinds: Counter[str] = Counter()
        self.seen: dict[str, Seen] = {}
        self.dispatched: set[str] = set()
        events = (
            event_codec.decode(raw) for raw in cluster.server.journal.log if b'"replies.trimmed"' in raw
        )
        self.floors = {
            each.client: parse_stream_id(each.min_id) for each in events if isinstance(each, TRIMMED)
        }
        self.trimmed: dict[str, str] = {}
        faults = cluster.world.happened
        self.deletes = faults["deleted_body"] > 0
        self.slack_ms = cluster.config.policy.max_step_ms * (1 + faults["clock_jump"] + faults["lost_tail"])

    def watch(self, entry: Written) -> None:
        """Check an entry."""
        kind, _, owner = entry.stream.partition(":")
        if entry.trimmed:
            self.trimmed[entry.id] = owner
        elif kind == "requests":
            self.on_request(owner, entry)
        elif kind == "work":
            self.on_work(owner, entry)
        elif kind == "replies":
            self.on_reply(owner, entry)

    def on_request(self, client: str, entry: Written) -> None:
        """Note a request, maybe one that is sent again."""
        fields = entry.fields
        if b"cancel" in fields:
            return
        key = f"{client}/{fields[b'id'].decode()}"
        if key not in self.seen:
            deadline_ms = fields[b"deadline_ms"]
            self.seen[key] = Seen(entry.now_ms, int(deadline_ms) if deadline_ms.isdigit() else 0)
        else:
            self.seen[key].is_resent = True

    def on_work(self, node: str, entry: Written) -> None:
        """Check a dispatch: once per attempt, with its prompt, never to the robot."""
        found, head = self.found, agent_entries.decode_work(entry.fields[b"head"])
        if node == EDGE:
            found.breaks("robot_never", f"{head.op} {head.request or head.model} went to {node}")
        if head.op != "run":
            return
        if entry.fields.get(b"prompt") != prompt_of(head.request):
            found.breaks("run_has_its_prompt", f"{head.request} attempt {head.attempt} has another prompt")
        seen = self.seen.setdefault(head.request, Seen(entry.now_ms, 0))
        if seen.reply:
            self.begin_anew(head.request, seen)
        if head.attempt != seen.attempt + 1 or entry.id in self.dispatched:
            found.duplicate_dispatches += 1
            found.breaks(
                "one_dispatch_per_attempt",
                f"{head.request} attempt {head.attempt} after attempt {seen.attempt}",
            )
        self.dispatched.add(entry.id)
        seen.work_id, seen.attempt = entry.id, head.attempt

    def is_forgotten(self, key: str, seen: Seen) -> bool:
        """Return whether the log says that the id was forgotten, before its reply was to be trimmed."""
        return parse_stream_id(seen.reply) < self.floors.get(key.partition("/")[0], (0, 0))

    def begin_anew(self, key: str, seen: Seen) -> None:
        """Check that an id which was answered runs again only once it was forgotten."""
        if not self.is_forgotten(key, seen):
            self.found.breaks("known_ids_start_nothing", f"{key} ran again though its reply stands")
        seen.reply, seen.attempt, seen.announced, seen.seq, seen.token_work_id = "", 0, 1, 0, ""

    def on_reply(self, client: str, entry: Written) -> None:
        """Check a reply."""
        fields, key = entry.fields, f"{client}/{entry.fields[b'id'].decode()}"
        kind = fields[b"kind"]
        seen = self.seen.get(key)
        if seen is None:
            if kind != b"rejected":
                self.found.breaks("only_what_was_asked", f"{kind.decode()} for {key}, which nobody asked")
            return
        if kind == b"token":
            self.on_token(key, seen, fields)
        elif kind == b"restarted":
            seen.announced, seen.seq, seen.token_work_id = int(fields[b"attempt"]), 0, ""
        elif kind in TERMINAL:
            self.on_end(key, seen, entry, kind)
        elif kind == b"known":
            if fields.get(b"reply_id", b"").decode() in self.trimmed:
                self.found.breaks("known_replies_stand", f"{key} is known by a reply that was trimmed")
        elif kind == b"rejected":
            self.kinds["rejected"] += 1
            if fields.get(b"code") == b"queue_full":
                self.found.breaks("windows_are_small", f"{key} was rejected as queue_full")

    def on_token(self, key: str, seen: Seen, fields: dict[bytes, bytes]) -> None:
        """Check a piece of an answer: in order, of the attempt that was announced last."""
        work_id, seq = fields[b"work_id"].decode(), int(fields[b"seq"])
        text = pieces_of(key, work_id)[seq - 1 : seq]
        if (
            seen.reply
            or work_id != seen.work_id
            or int(fields[b"attempt"]) != seen.announced
            or seq != seen.seq + 1
            or [fields[b"text"]] != text
        ):
            self.found.breaks(
                "tokens_in_order",
                f"{key} attempt {fields[b'attempt'].decode()}: token {seq} after {seen.seq}"
                f" of attempt {seen.announced}",
            )
        seen.seq = seq

    def on_end(self, key: str, seen: Seen, entry: Written, kind: bytes) -> None:
        """Check a terminal reply: one, of the current attempt, and not before its deadline."""
        found, fields = self.found, entry.fields
        if seen.reply:
            if self.is_forgotten(key, seen):
                self.begin_anew(key, seen)
            else:
                found.duplicate_replies += 1
                found.breaks("one_terminal_reply", f"{key} was answered twice")
        seen.reply = entry.id
        self.kinds[kind.decode()] += 1
        if kind == b"done":
            work_id = fields[b"work_id"].decode()
            if work_id != seen.work_id or fields[b"text"] != b"".join(pieces_of(key, work_id)):
                found.breaks(
                    "answer_of_current_attempt", f"{key}: its answer is not of attempt {seen.attempt}"
                )
        elif kind == b"expired":
            early_ms = seen.asked_ms + seen.deadline_ms - entry.now_ms
            if early_ms > self.slack_ms and not seen.is_resent:
                found.breaks("never_expired_early", f"{key} expired {early_ms} ms before its deadline")
        elif kind == b"error" and fields.get(b"code") == b"body_gone" and not self.deletes:
            found.breaks("bodies_are_kept", f"{key} ended as body_gone, and nobody deleted it")


def check(cluster: Cluster, found: Found) -> None:
    """Check all invariants of what clients and agents see."""
    watcher = Watcher(cluster, found)
    for entry in cluster.server.journal.entries:
        watcher.watch(entry)
    found.kinds = dict(sorted(watcher.kinds.items()))
    for client in cluster.clients:
        found.answered += len(client.ended)
        found.lost += len(client.open)
    if found.lost:
        found.breaks("every_request_ends", f"{found.lost} requests have no terminal reply")
    repeats = sum(count - 1 for count in cluster.runs.values())
    found.repeated_generations = repeats
    if repeats and not cluster.world.happened["lost_tail"]:
        work_id = next(each for each, count in cluster.runs.items() if count > 1)
        found.breaks("no_attempt_runs_twice", f"{work_id} began {cluster.runs[work_id]} times")
