"""Images as parts, without a server: how they are split, referred to, checked and counted."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from orion_streams.agents.part_reader import image_of
from orion_streams.decider.decide import why_hopeless
from orion_streams.errors import ContractError
from orion_streams.model import event_codec
from orion_streams.model import events as ev
from orion_streams.model.policy import ClientRules
from orion_streams.model.state import Failure, Grid, Request
from orion_streams.model.vocabulary import Blame
from orion_streams.protocol.ingest import take
from orion_streams.protocol.input_entries import Entry, Taken
from orion_streams.protocol.photo_parts import (
    INLINE_BYTES,
    MAX_BYTES,
    MAX_PARTS,
    PART_BYTES,
    place_of,
    split,
)
from tests.contract.contract_grid import MODEL
from tests.grids import LIMITS, fails, grid, node, request

ONE = ("5-0",)


def sent(some: Grid, **fields: Any) -> Taken:
    """What a guest's entry comes to; a list goes as JSON."""
    values = {"id": "q", "model": MODEL, "prompt": "p", **fields}
    raw = {
        name.encode(): value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        for name, value in values.items()
    }
    return take(some, Entry("requests", "guest", "9-0", raw), **LIMITS)


def house(opened: dict[str, Request] | None = None, **rules: Any) -> Grid:
    """A grid whose model sees, with rules for a guest."""
    return grid(node("n"), open_requests=opened, clients={"guest": ClientRules(**rules)})


def outcome(taken: Taken) -> str:
    """Why it was not accepted; "" if it was."""
    [event] = taken.events
    return event.code if isinstance(event, ev.RequestRejected | ev.InputRejected) else ""


def test_what_is_split_is_put_together_as_it_was() -> None:
    """Images of every size, in the request and in its messages, come back from their places; so do bytes,
    as base64; small ones share a part."""
    texts = ["a" * 10, "b" * PART_BYTES, "c" * (PART_BYTES + 1), "d" * 4]
    values = {"images": texts[:2], "messages": [{"role": "user", "images": texts[2:]}, {"role": "system"}]}
    referring, parts = split(values)
    assert [len(part) for part in parts] == [PART_BYTES, PART_BYTES, 15]
    images = [*referring["images"], *referring["messages"][0]["images"]]
    assert [image_of(image, "".join(parts)) for image in images] == texts
    assert referring["messages"][1] == {"role": "system"}
    raw = b"\xff" * INLINE_BYTES
    referring, parts = split({"images": [raw]})
    assert image_of(referring["images"][0], "".join(parts)) == base64.b64encode(raw).decode()


def test_small_images_stay_where_they_are() -> None:
    """Up to INLINE_BYTES in all they go in the entry; one character more, and they go as parts."""
    small = {"images": ["a" * (INLINE_BYTES - 1), "b"]}
    assert split(small) == (small, ())
    assert split({"images": ["a" * INLINE_BYTES, "b"]})[1] != ()


def test_too_many_bytes_are_refused_before_anything_is_written() -> None:
    """MAX_BYTES in all are taken, one more is not."""
    most = {"images": ["a" * (MAX_BYTES - 1), "b"]}
    assert len(split(most)[1]) == MAX_PARTS
    with pytest.raises(ContractError, match=r"8,388,609 bytes.*at most 8,388,608"):
        split({"images": ["a" * MAX_BYTES, "b"]})


BAD: dict[str, dict[str, Any]] = {
    "no such part": {"images": [f"parts:0-{PART_BYTES + 1}"], "parts": ONE},
    "no parts at all": {"images": ["parts:0-4"]},
    "in a message": {"images": None, "messages": [{"role": "user", "images": ["parts:0-4"]}]},
    "nothing": {"images": ["parts:4-4"], "parts": ONE},
    "backwards": {"images": ["parts:4-0"], "parts": ONE},
    "no numbers": {"images": ["parts:a-b"], "parts": ONE},
    "more after it": {"images": ["parts:0-4 "], "parts": ONE},
    "the same again and again": {"images": [f"parts:0-{PART_BYTES}"] * 2, "parts": ONE},
    "an id that is none": {"images": ["parts:0-4"], "parts": ["5"]},
    "an id that Redis refuses": {"images": ["parts:0-4"], "parts": ["99999999999999999999-0"]},
    "too many": {"images": ["parts:0-4"], "parts": [f"{n}-0" for n in range(MAX_PARTS + 1)]},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_reference_is_rejected(what: str) -> None:
    """By its place, at once: nobody has to look at the parts."""
    fields = {name: value for name, value in BAD[what].items() if value is not None}
    if "messages" in fields:
        fields["kind"], fields["prompt"] = "chat", ""
        taken = take_chat(fields)
    else:
        taken = sent(house(), **fields)
    assert outcome(taken) == "bad_field"
    assert any(word in taken.message for word in ("images", "parts"))


def take_chat(fields: dict[str, Any]) -> Taken:
    """What a chat with these messages comes to."""
    raw = {b"id": b"q", b"model": MODEL.encode(), b"messages": msgspec.json.encode(fields["messages"])}
    return take(house(), Entry("requests", "guest", "9-0", raw), **LIMITS)


def test_what_is_accepted_names_its_parts_and_nothing_of_them() -> None:
    """The event has the ids for retention, and the size of the entry, which is all that is copied."""
    [accepted] = sent(house(), images=[f"parts:0-{PART_BYTES}"], parts=ONE).events
    assert isinstance(accepted, ev.RequestAccepted)
    assert accepted.parts == ONE
    assert accepted.body_bytes < 200
    assert "vision" in accepted.needs
    assert b"parts" not in event_codec.encode(ev.RequestAccepted("k", "1-0", accepted.kind, MODEL, 1, 1, 1))


@pytest.mark.parametrize(("held", "code"), [(2, ""), (3, "queue_full")])
def test_parts_count_in_what_a_client_may_have_open(held: int, code: str) -> None:
    """Each as a whole one, since none may be larger; a request that alone is too large never fits."""
    rules = {"max_open_bytes": 4 * PART_BYTES}
    opened = {"guest/1": request(parts=tuple(f"{n}-0" for n in range(held)))}
    asked = {"images": ["parts:0-4"], "parts": ONE}
    assert outcome(sent(house(opened, **rules), **asked)) == code
    assert outcome(sent(house(opened, max_open_bytes=9 * PART_BYTES), **asked)) == ""
    assert outcome(sent(house(max_open_bytes=PART_BYTES), **asked)) == "too_large"


def test_parts_that_are_gone_end_the_request_at_once() -> None:
    """No second node is asked; what is refused otherwise is tried on another one."""

    def ends(code: str) -> None:
        held = request(failures=(Failure("n", code, Blame.REQUEST),))
        assert why_hopeless(grid(node("n"), node("m")), held) == "parts_gone"

    ends("parts_gone")
    assert fails(ends, "refused")


def test_very_many_small_images_are_placed_one_after_the_other() -> None:
    """Each begins where the one before it ends; their number costs no more than their bytes."""
    fields, parts = split({"images": ["AAAA"] * 50_000})
    places = [place_of(image) for image in fields["images"]]
    assert places == [(4 * at, 4 * at + 4) for at in range(50_000)]
    assert "".join(parts) == "AAAA" * 50_000
