"""The vocabulary of the log: what happened, past tense, frozen, one JSON object per entry.

A published event is never edited: a new field gets a default, a new meaning gets a new event. No event
holds a prompt or an answer. `request` is always "client/id". Times: `*_ms` durations, `age_ms` how old an
input was when it was taken; absolute times exist only as `server_ms` of a commit's head.
"""

from __future__ import annotations

from orion_streams.model.log_events import Committed, Event, PolicyChanged, tag_of
from orion_streams.model.node_events import (
    BreakerClosed,
    BreakerOpened,
    DiskEnded,
    DiskOrdered,
    LoadEnded,
    LoadOrdered,
    ModelDescribed,
    ModelInstalled,
    ModelLoaded,
    ModelRemoved,
    ModelUnloaded,
    NodeBackedOff,
    NodeDrained,
    NodeResumed,
    NodeReturned,
    NodeSampled,
    UnloadOrdered,
    ZoneChanged,
)
from orion_streams.model.request_events import (
    AttemptAbandoned,
    AttemptEnded,
    AttemptFailed,
    BodyLost,
    ClientAdded,
    ClientRemoved,
    InputRejected,
    RepliesTrimmed,
    RequestAccepted,
    RequestCancelled,
    RequestCompleted,
    RequestDeferred,
    RequestExpired,
    RequestFailed,
    RequestRejected,
    RequestResent,
    RequestRouted,
    RequestsListed,
    RequestStarted,
)

__all__ = [
    "AnyEvent",
    "AttemptAbandoned",
    "AttemptEnded",
    "AttemptFailed",
    "BodyLost",
    "BreakerClosed",
    "BreakerOpened",
    "ClientAdded",
    "ClientRemoved",
    "Committed",
    "DiskEnded",
    "DiskOrdered",
    "Event",
    "InputRejected",
    "LoadEnded",
    "LoadOrdered",
    "ModelDescribed",
    "ModelInstalled",
    "ModelLoaded",
    "ModelRemoved",
    "ModelUnloaded",
    "NodeBackedOff",
    "NodeDrained",
    "NodeResumed",
    "NodeReturned",
    "NodeSampled",
    "PolicyChanged",
    "RepliesTrimmed",
    "RequestAccepted",
    "RequestCancelled",
    "RequestCompleted",
    "RequestDeferred",
    "RequestExpired",
    "RequestFailed",
    "RequestRejected",
    "RequestResent",
    "RequestRouted",
    "RequestStarted",
    "RequestsListed",
    "UnloadOrdered",
    "ZoneChanged",
    "tag_of",
]


AnyEvent = (
    Committed | PolicyChanged | NodeSampled | NodeBackedOff | NodeReturned | ModelInstalled |
    ModelRemoved | ModelDescribed | ModelLoaded | ModelUnloaded | UnloadOrdered | LoadOrdered |
    LoadEnded | BreakerOpened | BreakerClosed | InputRejected | RequestRejected | RequestResent |
    RequestAccepted | RequestRouted | RequestDeferred | RequestStarted | AttemptFailed | AttemptEnded |
    AttemptAbandoned | BodyLost | RepliesTrimmed | RequestCompleted | RequestFailed | RequestExpired |
    RequestCancelled | RequestsListed | ClientAdded | ClientRemoved | NodeDrained | NodeResumed |
    ZoneChanged | DiskOrdered | DiskEnded
)  # fmt: skip
"""Every event; `match` on it ends with `assert_never`."""
