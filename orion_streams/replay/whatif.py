"""Decide each commit of a recorded log again, under changed rules. Pure.

The question at each commit: *under these rules, what would have been decided here, all else as recorded?*
This is a one-step counterfactual. Two grids are folded from the same log. The recorded one is what the
router had. The shadow one differs in three things only:

- the rules: each `policy.changed` is changed before it is folded (rule_changes.py);
- what the fold computes from the rules, such as slopes, demand and calm samples;
- whether a node is out: `node.backed_off`, `node.returned` and the breaker's events are those of the
  changed rules, from the beginning of the log on. They state what a node is, not what was done with it; so
  a node backs off once, not anew at each commit.

At each decided commit `decide` is called with the shadow grid, and its decisions are compared with the
recorded ones. Then the recorded routes, ends, orders and inputs are folded into both grids, so no decision
builds on a changed one before it. How changed decisions would affect each other is not computed: a node
that would get more work stays as free as it was. `simulation/rerun` simulates that.

Each difference is reported once:

- a request that waits: once per distinct changed decision, not at each commit;
- an attempt that would have gone elsewhere, or would have been abandoned before: whether it is abandoned
  later is no longer compared, and its recorded end is folded;
- an order to load or unload a model: once, until that model comes or goes on its node;
- a node that would be out at another time: when the two grids begin to differ.

A request stays as it was accepted: its deadline and its runner's options do not change. Decisions of
another decider version are folded and counted, not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec import Struct

from orion_streams.decider.decide import QUESTIONS, Question, decide
from orion_streams.eventlog.jsonl import Row, is_head
from orion_streams.eventlog.loader import decoded, fold_raw
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.state import Grid
from orion_streams.projections import apply, nodes
from orion_streams.protocol.commit_builder import LoggedGrid
from orion_streams.replay.compare_decisions import Boundary, Changed, Comparison, Found
from orion_streams.replay.decision_answers import KINDS, SAFETY, Side, answers_of
from orion_streams.replay.rule_changes import Change, check_names, notes_on, rules_of
from orion_streams.replay.verify import is_judged, shape


class Away(Struct):
    """How often a node was backed off, and for how many ms of grid time in all."""

    times: int = 0
    ms: int = 0


class NodeAway(Struct, frozen=True):
    """A node's time out of service, as recorded and under the changed rules."""

    node: str
    recorded: Away
    would: Away


class Outcome(Struct):
    """The outcome. `asked` and `changed`: decisions by kind (`decision_answers.KINDS`); `requests`:
    accepted ones; `requests_changed`: those with a changed decision; `older`: decisions of another decider
    version, not judged."""

    events: int = 0
    requests: int = 0
    requests_changed: int = 0
    older: int = 0
    asked: dict[str, int] = {}
    changed: dict[str, int] = {}
    decisions: list[Changed] = []
    nodes: list[NodeAway] = []
    notes: list[str] = []


class WhatIf:
    """Takes a log from a copy of `base` on, and decides each commit again under `change`."""

    def __init__(self, base: LoggedGrid, change: Change) -> None:
        """Raises ConfigError when the change makes no valid rules."""
        self.change = change
        self.recorded = LoggedGrid(base.grid.copy(), base.digest)
        self.shadow = base.grid.copy()
        self.comparison = Comparison()
        self._outcome = Outcome()
        self._asked: Counter[str] = Counter()
        self._away: dict[str, tuple[Away, Away]] = {}
        self._commit: list[Row] = []
        self._questions = tuple(self._without_foreign(question) for question in QUESTIONS)
        self._names = set(base.grid.nodes)
        if base.grid.revision:
            self._take_rules(rules_of(base.grid))

    def take(self, rows: Sequence[Row]) -> None:
        """Take the next rows, commits cut anywhere. Raises LogError when they were altered, ConfigError
        when the change contradicts the rules in them."""
        for row in rows:
            if self._commit and is_head(row[1]):
                self._close()
            self._commit.append(row)

    def finish(self) -> Outcome:
        """Return the outcome. Raises ConfigError when the change names a node that is not in the log."""
        if self._commit:
            self._close()
        check_names(self.change, self._names)
        grid, outcome = self.recorded.grid, self._outcome
        models = {model for node in grid.nodes.values() for model in node.installed}
        names = models | set(grid.demand)
        outcome.notes = notes_on(self.change, names, grid.policy, self.shadow.policy)
        outcome.asked = {kind: self._asked[kind] for kind in dict.fromkeys(KINDS.values())}
        changed = Counter(each.kind for each in outcome.decisions)
        outcome.changed = {kind: changed[kind] for kind in outcome.asked}
        outcome.requests_changed = len({each.request for each in outcome.decisions if each.request})
        outcome.nodes = [NodeAway(name, *both) for name, both in sorted(self._away.items())]
        return outcome

    def _close(self) -> None:
        """Fold one commit into both grids, and decide it again."""
        commit, self._commit = self._commit, []
        head = shape(commit)
        inputs, answers = commit[: 1 + head.inputs], commit[1 + head.inputs :]
        fold_raw(self.recorded, inputs)
        for _, raw in inputs:
            self._take_input(event_codec.decode(raw))
        self._pass_time()
        recorded = [(position, decoded(position, raw)) for position, raw in answers]
        if head.decided and is_judged(self.recorded.grid):
            self._ask(commit[-1][0], head.server_ms, recorded)
        else:
            self._outcome.older += sum(type(event) in KINDS for _, event in recorded)
            for _, event in recorded:
                apply(self.shadow, event)
        fold_raw(self.recorded, answers)
        self.shadow.position = self.recorded.grid.position
        self._outcome.events += len(commit)
        decided = {(KINDS[type(e)], e.node) for _, e in recorded if isinstance(e, SAFETY)}
        place = commit[-1][0], head.server_ms
        self._report(self.comparison.of_nodes(self.recorded.grid, self.shadow, *place, decided))

    def _take_input(self, event: ev.AnyEvent) -> None:
        """Fold an input into the shadow, with changed rules."""
        match event:
            case ev.PolicyChanged():
                self._take_rules(event)
                self.shadow.position += 1
                return
            case ev.RequestAccepted():
                self._outcome.requests += 1
                self.comparison.accepted(event.request)
            case ev.ModelLoaded() | ev.ModelUnloaded() | ev.LoadEnded():
                self.comparison.moved(event.node, event.model)
            case _:
                pass
        apply(self.shadow, event)

    def _take_rules(self, event: ev.PolicyChanged) -> None:
        changed = self.change.of(event)
        self._names |= {rules.name for rules in (*event.nodes, *changed.nodes)}
        nodes.policy_changed(self.shadow, changed)

    def _without_foreign(self, question: Question) -> Question:
        """Wrap a question so that it ignores attempts that the changed rules would not have made."""

        def only(grid: Grid) -> Iterator[ev.AnyEvent]:
            for answer in question(grid):
                is_foreign = isinstance(answer, ev.AttemptAbandoned) and self.comparison.is_foreign(
                    answer.request, answer.attempt
                )
                if not is_foreign:
                    yield answer

        return only

    def _ask(self, last: int, server_ms: int, recorded: Sequence[tuple[int, ev.AnyEvent]]) -> None:
        """Decide under the changed rules, compare, and fold the recorded decisions."""
        grid, shadow = self.recorded.grid, self.shadow
        would, was = decide(shadow, self._questions), [event for _, event in recorded]
        self._asked.update(KINDS[type(event)] for event in was if type(event) in KINDS)
        if was or would:
            now = answers_of(((last, answer) for answer in would), shadow.policy.max_events)
            sides = (
                Side(grid, was, answers_of(recorded, grid.policy.max_events)),
                Side(shadow, would, now),
            )
            self._report(self.comparison.changed(Boundary(last, server_ms, *sides)))
            self._count_backoffs(0, grid, was)
            self._count_backoffs(1, shadow, would)
        for answer in would:
            if isinstance(answer, SAFETY):
                apply(shadow, answer)
        for event in was:
            if not isinstance(event, SAFETY):
                apply(shadow, event)

    def _report(self, found: Found) -> None:
        """Collect changed decisions; count those that only the changed rules make."""
        for changed, is_recorded in found:
            self._outcome.decisions.append(changed)
            if not is_recorded:
                self._asked[changed.kind] += 1

    def _pass_time(self) -> None:
        """Add the time since the last commit to nodes that were out."""
        step_ms = self.recorded.grid.at_ms - self.recorded.grid.before_ms
        for side, grid in enumerate((self.recorded.grid, self.shadow)):
            for name, node in grid.nodes.items():
                if node.backed_off:
                    self._away_of(name)[side].ms += step_ms

    def _count_backoffs(self, side: int, grid: Grid, answers: Sequence[ev.AnyEvent]) -> None:
        """Count nodes that go out of service."""
        for name in {each.node for each in answers if isinstance(each, ev.NodeBackedOff)}:
            if name in grid.nodes and not grid.nodes[name].backed_off:
                self._away_of(name)[side].times += 1

    def _away_of(self, name: str) -> tuple[Away, Away]:
        return self._away.setdefault(name, (Away(), Away()))
