"""A story as lines for a terminal: texts and the names of their styles. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from orion_streams.cli.request_story import Choice, Happening, Look, Step, Story
from orion_streams.decider.standings import QUIET
from orion_streams.model import events as ev
from orion_streams.model.text import (
    WORD_FOR,
    duration,
    held_back,
    long,
    seconds,
    whose_fault,
    why_abandoned,
)
from orion_streams.model.verdict import TERMS, Verdict
from orion_streams.protocol.requests_replies import CODES

FIRST, LAST = 2, 4
"""How many decisions are shown from the beginning and from the end."""
MAX_NODES = 12
"""How many nodes are shown of a decision."""
INDENT = 19 * " "
HARD_SPACE = "\N{NO-BREAK SPACE}"
GOOD, WAITING, BAD, DIM, BOLD, PLAIN = "green", "yellow", "red", "dim", "bold", ""
STYLES = {"done": GOOD, "error": BAD, "expired": BAD, "rejected": BAD}
"""Of the headline, by the request's outcome; WAITING while it is open."""


class StyledLine(NamedTuple):
    """A line and its style."""

    text: str
    style: str = PLAIN


Chapter = tuple[Choice | None, list[Happening]]


def page(story: Story, width: int) -> list[StyledLine]:
    """Return all lines of the screen."""
    style = f"{BOLD} {STYLES.get(story.outcome.state, WAITING)}"
    rows = [StyledLine(each, style) for each in wrapped(headline(story), width, "  ")]
    rows += [StyledLine(each, DIM) for line in asked(story) for each in wrapped(line, width, "  ")]
    middle = list(body(story, width))
    if middle:
        rows += [StyledLine(""), StyledLine(f"{'AFTER':>8} {'POSITION':>8}", DIM), *middle]
    rows += [StyledLine(f"  {each}") for each in timing(story.timing)]
    if story.look is not None:
        rows += [StyledLine(""), *look(story.look, width)]
    return rows


def body(story: Story, width: int) -> Iterator[StyledLine]:
    """Yield decisions and what followed from them; of many only the first and the last ones."""
    chapters = chapters_of(story)
    left_out = len(chapters) - 1 - FIRST - LAST
    for index, (choice, happenings) in enumerate(chapters):
        if left_out > 0 and FIRST < index <= FIRST + left_out:
            if index == FIRST + 1:
                yield StyledLine(f"{INDENT}… {left_out} decisions are left out; --json has them all", DIM)
            continue
        if choice is not None:
            yield from decision(choice, width)
        for line in gathered(happenings):
            yield from (StyledLine(each, line.style) for each in wrapped(line.text, width, INDENT))


def wrapped(text: str, width: int, indent: str) -> list[str]:
    """Wrap the text at `width`; hard spaces do not break."""
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace(HARD_SPACE, " ") for line in lines]


def headline(story: Story) -> str:
    """Describe the outcome in a sentence."""
    end, name = story.outcome, story.request
    match end.state:
        case "done":
            return f"{name} was answered by {end.node} after {duration(end.after_ms)}"
        case "error":
            sentence = CODES.get(end.code, "")
            return (
                f"{name} ended as an error after {duration(end.after_ms)}: {end.code}. {sentence}".rstrip()
            )
        case "expired" | "cancelled":
            return f"{name} {'was ' * (end.state == 'cancelled')}{end.state} after {duration(end.after_ms)}"
        case "rejected":
            return f"{name} was rejected: {end.code}. {CODES.get(end.code, '')}".rstrip()
        case "waiting":
            return f"{name} has been waiting for {duration(end.after_ms)}{deadline(story)}"
        case "assigned":
            return f"{name} was sent to {end.node} and is about to start there{deadline(story)}"
        case "running":
            return f"{name} runs on {end.node}, {duration(end.after_ms)} after it was sent{deadline(story)}"
        case _:
            return f"{name}: the log has no end of it"


def deadline(story: Story) -> str:
    """Say how much time is left; it stands still in quiet hours."""
    left_ms = story.deadline_in_ms or 0
    if story.look is not None and story.look.waits_for == QUIET:
        return f": quiet hours end in {long(story.look.eta_ms)}, and then it has {seconds(left_ms)} left"
    return f"; it expires in {seconds(left_ms)}" if left_ms > 0 else "; its deadline has passed"


def asked(story: Story) -> Iterator[str]:
    """Yield what was requested, and when."""
    request = story.accepted
    if request is not None:
        parts = [
            request.kind,
            request.model,
            f"tier {request.tier}" if request.tier else "",
            f"priority {request.priority}" if request.priority else "",
            f"about {request.prompt_tokens} tokens of prompt",
            f"at most {request.num_predict} of answer" if request.num_predict else "",
            f"context {request.num_ctx}" if request.num_ctx else "",
            f"session {request.session}" if request.session else "",
            f"deadline {seconds(request.deadline_ms)}",
        ]
        yield " · ".join(part.replace(" ", HARD_SPACE) for part in parts if part)
        late = f", {duration(request.age_ms)} after it was sent" if request.age_ms >= 1000 else ""
        yield f"accepted {clock(story.accepted_server_ms)} at position {story.accepted_position}{late}"
    elif story.outcome.state == "rejected":
        [end] = [each for each in story.happenings if each.position == story.outcome.position]
        yield f"rejected {clock(end.server_ms)} at position {end.position}; its id stays unused"
    else:
        at = f" at position {story.accepted_position}" if story.accepted_position else ""
        yield f"accepted{at}, which is trimmed from the log; times count from what is left"


def clock(server_ms: int | None) -> str:
    """Format the server's time in the local time zone."""
    if not server_ms:
        return "at an unknown time"
    return datetime.fromtimestamp(server_ms / 1000).isoformat(" ", "milliseconds")


def chapters_of(story: Story) -> list[Chapter]:
    """Group the events after each decision; the first chapter has no decision."""
    chapters: list[Chapter] = [(None, [])]
    waiting = list(story.happenings)
    for choice in story.decisions:
        while waiting and waiting[0].position < choice.position:
            chapters[-1][1].append(waiting.pop(0))
        chapters.append((choice, []))
    chapters[-1][1].extend(waiting)
    return chapters


def decision(choice: Choice, width: int) -> Iterator[StyledLine]:
    """Yield a decision, then the verdict of each node."""
    if choice.kind == "routed":
        evicts = next((each.evicts for each in choice.verdicts if each.node == choice.node), ())
        what = f"attempt {choice.attempt} goes to {choice.node}"
        what += f", which unloads {', '.join(evicts)} for it" if evicts else ""
        what += "; the client is told that it begins anew" if choice.attempt > 1 else ""
    else:
        place = f" for {choice.node}, which cannot begin yet"
        what = f"waits{place if choice.node else ', as no node can take it'}"
    lines = wrapped(when(choice.after_ms, choice.position) + what, width, INDENT)
    yield from (StyledLine(line, BOLD) for line in lines)
    yield from verdicts_of(choice.verdicts, choice.node, width)


def when(after_ms: int, position: int) -> str:
    """Format the time since acceptance and the position as columns."""
    return f"{'+' + duration(after_ms):>8} {position:>8}  ".replace(" ", HARD_SPACE)


def verdicts_of(verdicts: Sequence[Verdict], chosen: str, width: int) -> Iterator[StyledLine]:
    """Yield a line per node: the chosen one first, then by cost, then the filtered ones."""
    ranked = sorted(
        verdicts,
        key=lambda each: (
            each.node != chosen,
            each.filter == "role",
            bool(each.filter),
            each.cost_ms,
            each.node,
        ),
    )
    names = max((len(each.node) for each in ranked[:MAX_NODES]), default=0)
    for each in ranked[:MAX_NODES]:
        sign = "→" if each.node == chosen else " "
        start = f"  {sign} {each.node:<{names}} ".replace(" ", HARD_SPACE)
        total = f"{'' if each.filter else duration(each.cost_ms):>7} ".replace(" ", HARD_SPACE)
        lines = wrapped(start + total + verdict(each), width, (len(start + total) + 2) * " ")
        style = GOOD if each.node == chosen else DIM if each.filter == "role" else PLAIN
        yield from (StyledLine(line, style) for line in lines)
    if len(ranked) > MAX_NODES:
        yield StyledLine(f"    … and {len(ranked) - MAX_NODES} more nodes; --json has them all", DIM)


def verdict(found: Verdict) -> str:
    """Say why a node was filtered, or list the terms of its cost that are not 0."""
    if found.filter:
        return held_back(found)
    terms = []
    for name in TERMS:
        ms = int(getattr(found, f"{name}_ms"))
        if ms:
            sign, word = "-" if name == "cached" else "+", WORD_FOR.get(name, name)
            terms.append(f"{sign} {word} {duration(ms)}".replace(" ", HARD_SPACE))
    evicts = f" (unloads {', '.join(found.evicts)})" if found.evicts else ""
    return "= " + (" ".join(terms).removeprefix(f"+{HARD_SPACE}") or "nothing to do") + evicts


def gathered(happenings: Sequence[Happening]) -> Iterator[StyledLine]:
    """Yield a line per event; count consecutive resends."""
    resent = 0
    for index, each in enumerate(happenings):
        if isinstance(each.event, ev.RequestAccepted | ev.RequestRejected | ev.InputRejected):
            continue  # the screen begins with these
        if isinstance(each.event, ev.RequestResent):
            resent += 1
            if index + 1 < len(happenings) and isinstance(happenings[index + 1].event, ev.RequestResent):
                continue
        text, style = happened(each.event, resent)
        resent = 0
        yield StyledLine(when(each.after_ms, each.position) + text, style)


def happened(event: ev.AnyEvent, times: int) -> StyledLine:
    """Describe an event and its style."""
    match event:
        case ev.RequestStarted():
            return StyledLine(f"attempt {event.attempt} started")
        case ev.AttemptFailed():
            fault = whose_fault(event.blame)
            return StyledLine(f"attempt {event.attempt} failed on {event.node}: {event.code}, {fault}", BAD)
        case ev.AttemptAbandoned():
            why = f"{event.reason}, {why_abandoned(event.reason)}"
            return StyledLine(f"attempt {event.attempt} on {event.node} was given up: {why}", BAD)
        case ev.AttemptEnded():
            return StyledLine(
                f"attempt {event.attempt} left its slot on {event.node}: {event.outcome}", DIM
            )
        case ev.BodyLost():
            return StyledLine("its entry is gone from the stream: it can no longer be run", BAD)
        case ev.RequestResent():
            again = "again" if times == 1 else f"again {times} times"
            return StyledLine(f"sent {again}; nothing started anew", DIM)
        case ev.RequestCompleted():
            model = "model loaded for it" if event.cold else "model in memory"
            tokens = f"{event.tokens} tokens ({event.done_reason}), prompt of {event.prompt_tokens}"
            return StyledLine(f"answered: {tokens}, {model}", GOOD)
        case ev.RequestFailed():
            return StyledLine(f"ended as an error: {event.code}", BAD)
        case ev.RequestExpired():
            return StyledLine("expired: its deadline passed", BAD)
        case ev.RequestCancelled():
            return StyledLine(f"cancelled by {cancelled_by(event)}", WAITING)
        case _:
            return StyledLine(str(event.__struct_config__.tag))


def cancelled_by(event: ev.RequestCancelled) -> str:
    """Say who cancelled a request."""
    return f"the operator {event.by}" if event.by else "its client"


def timing(steps: Sequence[Step]) -> Iterator[str]:
    """Yield the lines of expected and measured durations."""
    if not steps:
        return
    widths = [max(len(each.name), 7) for each in steps]
    columns = list(zip(steps, widths, strict=True))
    yield "         " + "".join(f"  {each.name:>{width}}" for each, width in columns)
    yield "expected " + "".join(f"  {known(each.expected_ms):>{width}}" for each, width in columns)
    yield "measured " + "".join(f"  {known(each.measured_ms):>{width}}" for each, width in columns)


def known(ms: int | None) -> str:
    """Format a duration; "?" if it is unknown."""
    return "?" if ms is None else duration(ms)


def look(found: Look, width: int) -> Iterator[StyledLine]:
    """Yield what routing decides now, or decided at the end."""
    at = "now" if found.at == "now" else "at the end"
    match found.kind:
        case "routed":
            what = f"goes to {found.node} next"
        case "rejected":
            what = "no node can ever take it"
        case _:
            what = (
                f"waits for {found.node}, which cannot begin yet" if found.node else "no node can take it"
            )
    behind = f", behind {found.ahead} other{'s' * (found.ahead > 1)}" if found.ahead else ""
    yield from (StyledLine(line, BOLD) for line in wrapped(f"{at}: {what}{behind}", width, "  "))
    yield from verdicts_of(found.verdicts, found.node, width)
