"""Words with one meaning each that stand in events and on the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class OpenEnum(StrEnum):
    """A StrEnum that keeps words it does not know, so that logs of other versions stay readable."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value, value
        return member


class Filter(OpenEnum):
    """What keeps a node from a request, in the order in which filters are asked."""

    NONE = ""
    ROLE = "role"
    SILENT = "silent"
    LEFT = "left"
    STALE = "stale"
    INVENTORY_UNKNOWN = "inventory_unknown"
    NOT_INSTALLED = "not_installed"
    INCAPABLE = "incapable"
    TIER = "tier"
    TOO_LARGE = "too_large"
    DRAINED = "drained"
    QUIET = "quiet"
    LEAVING = "leaving"
    TWO_AGENTS = "two_agents"
    NO_TEMPERATURE = "no_temperature"
    STUCK_SENSOR = "stuck_sensor"
    HOT = "hot"
    RAM = "ram"
    BREAKER = "breaker"
    PAUSED = "paused"
    PLACES = "places"
    MEMORY = "memory"


class Mark(OpenEnum):
    """A safety mark that a node passed."""

    HOT = "hot"
    RAM = "ram"


class Blame(OpenEnum):
    """Whose fault a failed attempt is."""

    NOBODY = ""
    REQUEST = "request"
    NODE = "node"
    OURS = "ours"


class RequestKind(OpenEnum):
    """What a request asks for."""

    GENERATE = "generate"
    CHAT = "chat"
    EMBED = "embed"


UNLOADED = "unload"
"""The `done_reason` of a request that only let a model go."""


class WaitKind(OpenEnum):
    """Why a request waits: its best node is busy; a node would take it but for its quiet hours; those that
    may ever take it rest, one of them drained; or every node is filtered."""

    NONE = ""
    BUSY = "busy"
    QUIET = "quiet"
    DRAINED = "drained"
    NO_NODE = "no_node"


AT_REST = (WaitKind.QUIET, WaitKind.DRAINED)
"""Waits that were meant, for nodes that rest."""


class AbandonReason(OpenEnum):
    """Why the router gave an attempt up."""

    GONE = "gone"
    SILENT = "silent"
    OVERDUE = "overdue"
    HOT = "hot"
    RAM = "ram"
    CRITICAL = "critical"
    REMOVED = "removed"
    LEFT = "left"
    DRAINED = "drained"


class UnloadReason(OpenEnum):
    """Why a model was told to go: the node is out of memory, or another model needs the room."""

    RELIEF = "relief"
    ROOM = "room"


class RequestState(StrEnum):
    """Where a request is: open in three states, or closed as its terminal reply's kind says."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    RUNNING = "running"
    DONE = "done"
    ERROR = "error"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """Where an assignment of a node is. A given up one takes its slot; its result changes nothing else."""

    SENT = "sent"
    RUNNING = "running"
    LOADING = "loading"
    GIVEN_UP = "given_up"
    ENDED = "ended"


class BreakerState(StrEnum):
    """A node's breaker: how much it lets through."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    RAMP = "ramp"


class Code(OpenEnum):
    """Ends of attempts and requests that a decision tells apart."""

    OLLAMA_UNREACHABLE = "ollama_unreachable"
    AGENT_LEAVING = "agent_leaving"
    OLLAMA_ERROR = "ollama_error"
    CANCELLED = "cancelled"
    ANSWER_TOO_LARGE = "answer_too_large"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    BODY_GONE = "body_gone"
    INCAPABLE = "incapable"
    MODEL_TOO_LARGE = "model_too_large"
    PARTS_GONE = "parts_gone"
    REFUSED = "refused"
    UNKNOWN_MODEL = "unknown_model"
