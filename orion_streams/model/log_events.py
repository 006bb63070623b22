"""The base of all events, and those about the log itself and its rules."""

from __future__ import annotations

from msgspec import Struct

from orion_streams.model.policy import ClientRules, ModelRules, NodeRules, Policy


class Event(Struct, frozen=True, omit_defaults=True, tag_field="event"):
    """Base of all events."""


def tag_of(event: Event) -> str:
    """Return the event's name in the log."""
    return str(event.__struct_config__.tag)


class Committed(Event, frozen=True, tag="committed"):
    """The head of every commit that logs anything; the `inputs` events after it are what was taken,
    the rest is what `decide` answered. `hash` is the running hash of the log before this entry."""

    number: int
    server_ms: int
    inputs: int
    decided: bool
    hash: str


class PolicyChanged(Event, frozen=True, tag="policy.changed"):
    """From here on these rules hold, and this version of the code decides. `inherited`: the rules are those
    that an older version had put into force."""

    revision: int
    policy_id: str
    policy: Policy
    nodes: tuple[NodeRules, ...]
    models: dict[str, ModelRules] = {}
    decider: int = 1
    clients: dict[str, ClientRules] = {}
    inherited: bool = False
