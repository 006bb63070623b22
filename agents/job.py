"""One run, load or unload in an agent's hands: its phases, and the table that they obey."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from orion_streams.protocol.agent_entries import WorkHead


class Phase(StrEnum):
    """Where a job stands."""

    NOTICED = "noticed"
    WITHDRAWN = "withdrawn"
    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    REPORTED = "reported"
    SETTLED = "settled"


class Input(StrEnum):
    """What happens to a job."""

    TAKEN = "taken up, maybe once more"
    CANCELLED = "cancelled, or handed back"
    BEGUN = "its turn has come"
    ENDED = "the backend is done with it"
    WRITTEN = "its result is written"
    RESTARTED = "a former process had it"
    REPEATED = "delivered again after its end"


MEANINGS: dict[Phase, str] = {
    Phase.NOTICED: "read, and not taken up yet",
    Phase.WITHDRAWN: "cancelled before it was taken up: it does not begin",
    Phase.WAITING: "for the unloads read before it, and a run for a slot",
    Phase.RUNNING: "the backend carries it out; a run has a slot",
    Phase.STOPPING: "cancelled or let go while the backend carries it out; a run still has its slot",
    Phase.ENDED: "it has its one result, which is being written",
    Phase.REPORTED: "it was over before this process, or before the server lost its tail: "
    "its result is being written, and health does not list it",
    Phase.SETTLED: "acknowledged and out of hand",
}
TRANSITIONS: dict[tuple[Phase, Input], Phase] = {
    (Phase.NOTICED, Input.TAKEN): Phase.WAITING,
    (Phase.NOTICED, Input.CANCELLED): Phase.WITHDRAWN,
    (Phase.NOTICED, Input.RESTARTED): Phase.REPORTED,
    (Phase.NOTICED, Input.REPEATED): Phase.REPORTED,
    (Phase.WITHDRAWN, Input.TAKEN): Phase.ENDED,
    (Phase.WITHDRAWN, Input.CANCELLED): Phase.WITHDRAWN,
    (Phase.WAITING, Input.TAKEN): Phase.WAITING,
    (Phase.WAITING, Input.CANCELLED): Phase.ENDED,
    (Phase.WAITING, Input.BEGUN): Phase.RUNNING,
    (Phase.RUNNING, Input.TAKEN): Phase.RUNNING,
    (Phase.RUNNING, Input.CANCELLED): Phase.STOPPING,
    (Phase.RUNNING, Input.ENDED): Phase.ENDED,
    (Phase.STOPPING, Input.TAKEN): Phase.STOPPING,
    (Phase.STOPPING, Input.CANCELLED): Phase.STOPPING,
    (Phase.STOPPING, Input.ENDED): Phase.ENDED,
    (Phase.ENDED, Input.TAKEN): Phase.ENDED,
    (Phase.ENDED, Input.CANCELLED): Phase.ENDED,
    (Phase.ENDED, Input.WRITTEN): Phase.SETTLED,
    (Phase.REPORTED, Input.TAKEN): Phase.REPORTED,
    (Phase.REPORTED, Input.CANCELLED): Phase.REPORTED,
    (Phase.REPORTED, Input.WRITTEN): Phase.SETTLED,
}


class Job(Struct, eq=False):
    """A run, load or unload from the moment it was read. `fields` are the entry's, with the request's body;
    `pieces` counts those of its answer that were passed on. `let_go`: it is to stop because the agent
    leaves."""

    work_id: str
    head: WorkHead
    fields: Mapping[bytes, bytes] = {}
    phase: Phase = Phase.NOTICED
    pieces: int = 0
    let_go: bool = False

    def advance(self, given: Input) -> bool:
        """Move to the phase that the table names, and say whether it is another one. Raises RuntimeError
        for an input that cannot come in this phase."""
        following = TRANSITIONS.get((self.phase, given))
        if following is None:
            raise RuntimeError(f"work {self.work_id} is {self.phase}: {given.name} cannot happen")
        moved, self.phase = following is not self.phase, following
        return moved
