"""docs/OPERATIONS.md: each finding of `orion doctor` and each kind of alert, what it means and what to do.

The words and the line that mends are those of the code: each finding is brought about once, by the cases of
the doctor's own tests. Only what it means is written here.

python -m tests.cli.operations_reference
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from msgspec.structs import replace

from orion_streams.cli.doctor.doctor_command import diagnose
from orion_streams.cli.doctor.findings import Facts, Finding, Group, Kept, Severity
from orion_streams.config import parse
from orion_streams.model.alert_rules import Kind
from tests.cli.doctor_facts import fact, gone, healthy, rules, state
from tests.cli.test_doctor_findings import FAULTS, P, W
from tests.grids import AT_MS, DISK, LIBRARY, MODEL

DOCUMENT = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
OPENING = """\
# Operations

<!-- Made from what `orion doctor` says: do not edit.
     Write it anew with: python -m tests.cli.operations_reference -->

`orion doctor` looks at everything and says what is wrong, each with the line that mends it; it writes
nothing. Names (`pi`, `brain`, `g:`) and figures below are an example's. A **problem** stops something, a
*warning* may become one; rows marked *ok* need nothing: they explain a line. On a machine of
`orion install` doctor says `sudo systemctl restart orion-ROLE` where `orion ROLE …` stands here, and in
a clone `./orion` for `orion`.
"""
WEIGHTS: dict[Severity, str] = {"problem": "**problem**", "warning": "*warning*", "ok": "ok"}
KINDS: tuple[str, ...] = get_args(get_args(Kind)[0])


def abandoned(facts: Facts) -> None:
    """An agent that went away with work in hand."""
    gone(heard_ms=AT_MS - 9_000)(facts)
    facts.groups["work:pi"] = Group(2)


def of_alerts(text: str, **facts: bool) -> Callable[[Facts], None]:
    """Alerts as streams.toml has them."""

    def change(found: Facts) -> None:
        read = parse(f"[nodes.pi]\n{text}")
        found.config = replace(found.config, alerts=read.alerts, alerts_to=read.alerts_to)
        fact(**facts)(found)

    return change


def in_quiet_hours(facts: Facts) -> None:
    """At eleven in the evening a node whose fans are loud takes nothing."""
    rules(server_ms=23 * 3_600_000)(facts)
    assert facts.grid is not None
    before = facts.grid.nodes["pi"]
    facts.grid.nodes["pi"] = replace(before, rules=replace(before.rules, quiet="22:00-07:00"))


def only_on_pi(count: int) -> Callable[[Facts], None]:
    """So many models of which the other node has none."""
    return state(installed={**DISK, **{f"m{number}:1b": LIBRARY[MODEL] for number in range(count)}})


def failed(**why: str) -> Callable[[Facts], None]:
    """Checks that could not be made."""
    return fact(failed=why)


CASES = {
    name: (change, severity, about, what) for name, (change, severity, about, what, _) in FAULTS.items()
} | {
    "away": (fact(away="refused"), P, "redis", "does not answer"),
    "refused": (fact(refused="WRONGPASS"), P, "redis", "cannot be used so"),
    "forbidden": (
        fact(denied={"TIME": "user x may not run TIME"}), W, "doctor", "TIME was not looked at: user x",
    ),
    "damaged": (failed(log="the log has a gap: after 3 comes 5"), P, "router", "gap"),
    "abandoned": (abandoned, W, "pi", "read and not ended"),
    "to nobody": (of_alerts('[[alerts]]\nname = "a"\nkind = "hot"\n'), W, "alerts", "and nobody is told"),
    "no sender": (
        of_alerts('[alerts_to.phone]\ncommand = ["/bin/true"]\n', sender_runs=False), W, "alerts",
        "the process that sends",
    ),
    "unseen": (failed(clients="timed out"), W, "doctor", "was not looked at: timed out"),
    "not read yet": (state(heard_ms=AT_MS - 9_000), "ok", "pi", "no router has read it yet"),
    "quiet": (in_quiet_hours, "ok", "pi", "quiet hours until 07:00"),
    "capped before": (state(throttled=0b10 << 16), "ok", "pi", "since its boot it was slowed down"),
    "remote": (state(remote=("big:cloud",)), "ok", "pi", "never asked, since they run outside"),
    "kept elsewhere": (fact(archive=Kept(False)), "ok", "archive", "it is the router's"),
    "on one node": (only_on_pi(1), "ok", "models", "is on one node only: ollama pull"),
    "many on one node": (only_on_pi(9), "ok", "models", "more are on one node only"),
}  # fmt: skip
MEANS = {
    "old": "It lacks what the log needs of a server.",
    "replica": "Writes go to its primary only.",
    "volatile": "A restart of the server loses every request, and the log.",
    "evicts": "When its memory is full it throws away what others still need.",
    "evicted": "Entries are gone; if they were the grid's, the router says which.",
    "loading": "After a start it reads its file; the grid waits.",
    "disk": "It refuses writes until its disk has room.",
    "rewrite": "Its file is not made smaller; the disk fills up.",
    "bgsave": "The other way of keeping data fails, mostly for want of disk.",
    "tight": "At the limit nothing is accepted any more.",
    "full": "Requests will be refused with `OOM`.",
    "clock ahead": "Nothing is decided by it, nothing expires for it; times that people read are wrong.",
    "clock behind": "The same, backwards: as after a power cut, before the network gave the time.",
    "slow": "Each step of a request takes that much longer: Wi-Fi, or a busy server.",
    "script": "Whoever else uses this server waits as long.",
    "nobody": "No router decides: requests wait, and none is lost.",
    "lost log": "The streams were deleted, or the server came back without its file.",
    "empty": "A new grid, or the wrong prefix or database.",
    "lost tail": "The server came back without the end of what it had acknowledged.",
    "lost guard": "A part of the grid's keys was deleted: it refuses to guess.",
    "newer file": "The router read its file before this one was changed.",
    "older file": "This machine reads an older copy.",
    "other rules": "Two files with one number: nobody could tell which held.",
    "program": "Two versions are installed; the newer one's rules for deciding hold.",
    "no snapshots": "A start reads the whole log, and nothing may be trimmed.",
    "archive gap": "That part of the past is lost; the grid goes on.",
    "archive broken": "A file of the archive cannot be read.",
    "archive stands": "It falls behind; trimming waits for it up to twice the limit.",
    "foreign": "Something else uses the grid's names.",
    "health": "No router trims it.",
    "results": "No router trims it.",
    "replies": "A client remembers more answers than entries are kept for.",
    "requests": "Nobody takes them in.",
    "work": "Its agent reads nothing.",
    "log": "It outgrows what it may take; something holds trimming up.",
    "photos": "Images stay in memory.",
    "unread requests": "A client that nobody knows waits for an answer that will not come.",
    "unread rest": "Left over from a node or client that is no more.",
    "stuck sensor": "Still under work: a broken sensor, so the node takes nothing.",
    "group": "An agent cannot read its work until a router has made it.",
    "silent": "The node is in streams.toml, and its agent was never started.",
    "stale": "Its agent, its machine or its network is away; its work was moved.",
    "left": "Somebody stopped it; it takes nothing.",
    "leaving": "It ends what it has in hand.",
    "hot": "It rests and comes back by itself; its work was moved.",
    "ram": "It rests until memory is free again.",
    "breaker": "Several requests in a row failed there; it is tried again by itself.",
    "sensor": "A node whose temperature nobody knows takes nothing.",
    "ollama away": "The agent runs, its Ollama does not answer.",
    "no models": "There is nothing that it could answer with.",
    "two agents": "Two processes take each other's work.",
    "leftover": "A runner that was killed may have left memory behind.",
    "odd rows": "Its Ollama says what cannot be; the rest is used.",
    "pinned nowhere": "What should stay in memory there has to be on its disk first.",
    "pinned in another case": "Ollama's name is written otherwise.",
    "odd sensor": "A reading that cannot be true is not believed.",
    "named sensor": "All is well.",
    "voltage": "A Pi without enough power is slow, and may reboot.",
    "capped": "A Pi that is too hot or short of power slows itself down.",
    "unreachable": "From this machine its Ollama cannot be asked; its own agent may.",
    "nobody takes": "They wait until a node is fit again, or expire at their deadline.",
    "crowded": "Its next requests will be refused with `too_many_open`.",
    "away": "Nobody can do anything; all wait, and go on by themselves when it is back.",
    "refused": "A wrong password, a user without the right, or a certificate that is not trusted.",
    "forbidden": "The rest was looked at all the same.",
    "damaged": "The log is not what was written: the router does not start on it.",
    "abandoned": "It ends them as soon as it starts; meanwhile the requests run elsewhere.",
    "to nobody": "Rules without a target.",
    "no sender": "The process that tells people has ended.",
    "unseen": "The rest was looked at all the same.",
    "drained": "It takes nothing new and stays away until then; nobody is alerted.",
    "drained and away": "It may be off, too: the absence is planned.",
    "not read yet": "The node is well; a router was asleep, or is busy.",
    "quiet": "Its fans rest; what it had begun it has ended.",
    "capped before": "It is over; it may come again.",
    "remote": "Models whose name sends prompts to somebody's servers.",
    "kept elsewhere": "Whether it is complete can be seen there only.",
    "on one node": "When that node is away, nobody answers for the model.",
    "many on one node": "The same; five are named.",
}
ALERTS = {
    "hot": (
        "A node is too hot, or has not cooled down.",
        "Give it air; its work runs elsewhere.",
    ),
    "full": ("Its memory is full.", "`orion plan`; unpin a model, or look for what else runs there."),
    "silent": (
        "Its agent, machine or network is away.",
        "`orion doctor`; its power and network.",
    ),
    "no_sensor": ("Its temperature is unknown.", "Repair the sensor, or `temperature_sensor = false`."),
    "breaker": ("Requests in a row failed there.", "`orion requests --failed`, then its Ollama's log."),
    "wait": ("Somebody waits too long.", "`orion explain ID` says for what."),
    "queue": ("Too many wait.", "`orion ps`; is a node away? Who asks so much?"),
    "errors": ("Too many requests fail.", "`orion requests --failed` says why."),
    "no_router": ("Nothing is decided.", "Start the router: `orion router`, or systemd's unit."),
    "archive_behind": (
        "The log will be trimmed later, or lost.",
        "Free its disk; `orion log archive`.",
    ),
    "unread_client": ("A client is not in streams.toml.", "Add `[clients.NAME]`, raise `revision`."),
}
"""By kind: what it means, what to do."""


def finding_of(name: str) -> Finding:
    """Bring a finding about."""
    change, severity, about, what = CASES[name]
    facts = healthy()
    change(facts)
    return next(
        each
        for each in diagnose(facts).findings
        if (each.severity, each.about) == (severity, about) and what in each.what
    )


def cell(text: str) -> str:
    """Return a text as a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def rows() -> Iterator[str]:
    """Yield a row for each finding."""
    for found, name in sorted(
        ((finding_of(name), name) for name in CASES), key=lambda each: each[0].severity == "ok"
    ):
        weight = WEIGHTS[found.severity]
        mend = f"`` {cell(found.mend)} ``" if found.mend else "nothing"
        yield f"| {weight} {found.about} | {cell(found.what)} | {MEANS[name]} | {mend} |\n"


def document() -> str:
    """Return the whole document."""
    text = (
        f"{OPENING}\n## What doctor finds\n\n| about | it says | it means | mend it |\n|---|---|---|---|\n"
    )
    text += "".join(rows())
    text += "\n## Alerts\n\nRules, targets and tests: [ALERTS.md](ALERTS.md).\n\n"
    text += "| kind | it means | what to do |\n|---|---|---|\n"
    return text + "".join(f"| `{kind}` | {ALERTS[kind][0]} | {ALERTS[kind][1]} |\n" for kind in KINDS)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
