"""Entries of the gateway about its guests: clients that come and go without a new revision. Pure.

    XADD orion:requests:gateway * id x1 guest key-anna rules '{"max_priority":3}'
    XADD orion:requests:gateway * id x2 remove_guest key-anna

Both are answered by one reply, `noted` or `rejected`; either may be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orion_streams.errors import ContractError
from orion_streams.model import events as ev
from orion_streams.model.policy import GATEWAY, GUEST_PREFIX, MAX_GUESTS, ClientRules, Name
from orion_streams.model.state import Grid
from orion_streams.protocol.input_entries import Taken
from orion_streams.protocol.requests_replies import CODES, MAX_MESSAGE, parse_json

RULES = tuple(name for name in ClientRules.__struct_fields__ if name != "operator")
"""The rules that a guest may have: it is never an operator."""


def take_guest(grid: Grid, client: str, fields: Mapping[str, str], reply_to: str) -> Taken:
    """Take `guest` or `remove_guest`. Raises ContractError not_allowed, bad_json, bad_field."""
    if client != GATEWAY:
        raise ContractError("not_allowed", f"clients.{client}: {CODES['not_allowed']}")
    if "remove_guest" in fields:
        return Taken((ev.ClientRemoved(fields["remove_guest"]),), reply_to=reply_to)
    name, rules = guest_name(grid, fields["guest"]), guest_rules(fields.get("rules", "{}"))
    return Taken((ev.ClientAdded(name, rules),), reply_to=reply_to)


def guest_name(grid: Grid, name: str) -> str:
    """Return the name of a guest that may be added. Raises ContractError bad_field."""
    if not name.startswith(GUEST_PREFIX) or not is_name(name):
        what = f"guest: expected {GUEST_PREFIX} and small letters, digits, - and _; 63 characters in all"
        raise ContractError("bad_field", what)
    if name in grid.clients:
        raise ContractError("bad_field", f"guest: streams.toml has [clients.{name}], whose rules hold")
    if name not in grid.guests and len(grid.guests) >= MAX_GUESTS:
        raise ContractError("bad_field", f"guest: expected at most {MAX_GUESTS} guests")
    return name


def is_name(text: str) -> bool:
    """Whether a text is a name as streams.toml has them."""
    try:
        return bool(msgspec.convert(text, Name))
    except msgspec.ValidationError:
        return False


def guest_rules(text: str) -> ClientRules:
    """Return the rules that a JSON object holds. Raises ContractError bad_json, bad_field."""
    found = parse_json("rules", text)
    if not isinstance(found, dict) or (unknown := [name for name in found if name not in RULES]):
        known = ", ".join(RULES)
        what = f"{unknown[0][:64]}, known: {known}" if isinstance(found, dict) else f"expected {known}"
        raise ContractError("bad_field", f"rules: {what}")
    try:
        return msgspec.convert(found, ClientRules)
    except msgspec.ValidationError as error:
        raise ContractError("bad_field", f"rules: {error}"[:MAX_MESSAGE]) from None
