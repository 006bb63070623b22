"""Decisions of some dozens of grids, one line each: what any machine, process and Python has to repeat.

    python -m tests.properties.decisions > tests/properties/golden/decisions.txt

rewrites the golden file; do so only for a difference that is understood. It needs nothing but the library:
no Hypothesis, whose inputs change from version to version. Its dice are its own.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from orion_streams.decider.decide import decide
from orion_streams.decider.placement import demand_of, plan
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import ModelRules, NodeRules, Policy
from orion_streams.model.state import Demand, Grid, Length, Node, Request, Resident, Rest, Speed
from orion_streams.projections import fold
from tests.grids import AT_MS, BIG, DISK, HEAVY, LIBRARY, MODEL, TWIN, grid, holding, request

GOLDEN = Path(__file__).parent / "golden" / "decisions.txt"
SCENARIOS = 60
NAMES = ("orion-edge", "orion-master", "orion-spare", "orion-worker")
MODELS = (MODEL, TWIN, HEAVY, BIG)
Face = TypeVar("Face")


class Dice:
    """Knuth's linear congruential generator: the same throws everywhere."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def throw(self, faces: tuple[Face, ...]) -> Face:
        """One of them."""
        self._state = (self._state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return faces[(self._state >> 33) % len(faces)]


def a_node(dice: Dice, name: str) -> Node:
    """A node in some condition."""
    rules = NodeRules(
        name,
        inference=name != "orion-edge" or dice.throw((True, False)),
        tiers=dice.throw(((), (1,), (2,))),
        slots=dice.throw((1, 1, 2, 3)),
        quiet=dice.throw(("",) * 9 + ("00:10-00:20",)),
    )
    resident, total_mb = {}, dice.throw((4_000, 8_000, 16_000))
    for model in MODELS:
        if model != TWIN and dice.throw((True, False, False)):
            size_mb, num_ctx = LIBRARY[model].size_mb + 300, dice.throw((4_096, 4_096, 8_192))
            since_ms = dice.throw((0, AT_MS - 20_000))
            resident[model] = Resident(LIBRARY[model].digest, size_mb, num_ctx, num_ctx, "", since_ms)
    held = holding(
        dice.throw(MODELS), dice.throw((900, 40_000)), started=dice.throw((True, False)), num_ctx=4_096
    )
    temp_mc = dice.throw((50_000, 50_000, 60_000, 60_000, 65_000, 70_001, 75_000, 75_001))
    return Node(
        rules,
        heard_ms=AT_MS - dice.throw((0, 500, 500, 2_500, 5_000, 5_001)),
        temp_mc=temp_mc,
        forecast_mc=temp_mc + dice.throw((0, 0, 2_000)),
        ram_total_mb=total_mb,
        ram_used_mb=total_mb * dice.throw((150, 150, 150, 500, 870, 901)) // 1_000,
        inventory_known=dice.throw((True, True, True, False)),
        installed=dice.throw((LIBRARY, LIBRARY, DISK)),
        resident=resident,
        assignments=dice.throw(({}, {}, {"5-0": held})),
        used_ms={model: AT_MS - dice.throw((4_000, 20_000, 50_000)) for model in resident},
        sessions=dice.throw(({}, {MODEL: ("s",)})),
        rest=dice.throw((*(None,) * 6, Rest("cli", AT_MS - 9_000, 9_000), Rest("cli", AT_MS - 9_000))),
    )


def a_request(dice: Dice, position: int) -> Request:
    """A request that waits."""
    return request(
        model=dice.throw(MODELS),
        kind=dice.throw(("generate", "chat", "embed")),
        tier=dice.throw((0, 1, 2)),
        priority=dice.throw((0, 0, 1)),
        prompt_tokens=dice.throw((5, 900)),
        num_predict=dice.throw((0, 64)),
        num_ctx=dice.throw((4_096, 4_096, 8_192)),
        session=dice.throw(("", "s")),
        deadline_ms=AT_MS + dice.throw((-1, 5_000, 20_000, 40_000, 60_000)),
        accepted=position,
        accepted_ms=AT_MS - dice.throw((0, 9_000)),
    )


def a_grid(seed: int, backwards: bool = False) -> Grid:
    """A whole grid; `backwards` only turns the order of its nodes."""
    dice = Dice(seed)
    rows = [a_node(dice, name) for name in NAMES if name == "orion-worker" or dice.throw((True, False))]
    asked = {f"brain/q{n}": a_request(dice, n) for n in range(dice.throw((0, 0, 1, 2, 4)))}
    return grid(
        *(reversed(rows) if backwards else rows),
        open_requests=asked,
        before_ms=AT_MS - dice.throw((500, 9_000, 9_000)),
        policy=dice.throw((Policy(), Policy(), Policy(spill_forbidden=(1,)))),
        speeds={(row.rules.name, MODEL): Speed(900, 20_000, dice.throw((70_000, 90_000))) for row in rows},
        answers={HEAVY: Length(dice.throw((40_000, 900_000)), 3)},
        demand={model: Demand(dice.throw((0, 1_000, 7_000)), AT_MS - 60_000) for model in MODELS},
        models=dice.throw(({}, {HEAVY: ModelRules(num_ctx=8_192, resident_on=("orion-worker",))})),
    )


def lines(backwards: bool = False) -> Iterator[str]:
    """A scenario each: what was decided, in words, and a digest of every byte of it."""
    for seed in range(1, SCENARIOS + 1):
        some = a_grid(seed, backwards)
        raw, words = b"", []
        for _ in range(4):
            answers = decide(some)
            raw += b"\n".join(event_codec.encode(each) for each in answers)
            words += [in_words(each) for each in answers]
            some = fold(some, answers)
        planned = plan(some, demand_of(some))
        raw += msgspec.json.encode(planned)
        words.append(f"plan {len(planned)}")
        digest = hashlib.blake2b(raw, digest_size=8).hexdigest()
        yield f"{seed:02} {digest} {'; '.join(words)}"


def in_words(answer: ev.AnyEvent) -> str:
    """The gist of an answer."""
    about = getattr(answer, "request", "") or getattr(answer, "model", "")
    told = [answer.__struct_config__.tag, about, getattr(answer, "node", ""), getattr(answer, "kind", "")]
    costs = [str(each.cost_ms) for each in getattr(answer, "verdicts", ()) if not each.filter]
    return " ".join(str(part) for part in (*told, "/".join(costs)) if part)


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines("backwards" in sys.argv[1:])) + "\n")
