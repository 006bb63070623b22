"""What a backend, which runs requests on a node, must be able to do; and an echo that measures the grid
around it. A failure carries its blame: the request's own, the node's, or ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from orion_streams.errors import OrionError
from orion_streams.model.measured import Usage
from orion_streams.protocol import requests_replies
from orion_streams.protocol.agent_entries import (
    InstalledModel,
    ModelDescription,
    ResidentModel,
    WorkHead,
)

Blame = Literal["request", "node", "ours"]


class RunFailedError(OrionError):
    """A run, load or unload failed. `breaks_model`: the model is not in memory, whatever is listed."""

    def __init__(self, code: str, blame: Blame, message: str, breaks_model: bool = False) -> None:
        super().__init__(message)
        self.code, self.blame, self.breaks_model = code, blame, breaks_model


class DiskFailedError(RunFailedError):
    """A pull or removal of a model failed, on the node."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, "node", message)


class Chunk(Struct, frozen=True):
    """A piece of an answer; the last one, and no other, has its usage, and may have its context."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[dict[str, Any], ...] = ()
    vectors: bytes = b""
    context: tuple[int, ...] = ()
    usage: Usage | None = None


class PullStep(Struct, frozen=True):
    """A line of a pull: what is done, and of one part its size and what is there of it, in bytes."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0


Model = TypeVar("Model", InstalledModel, ResidentModel)


class Listing(Struct, Generic[Model], frozen=True):
    """A list of models as it was read: why rows were left out, a sentence each; and the names of models
    that run elsewhere, which this house never asks."""

    models: tuple[Model, ...] = ()
    left_out: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()


class Backend(Protocol):
    """What an agent needs of whatever runs its models."""

    engine: str
    """What answers, for replies and health, as far as it was asked."""
    where: str
    """Where it answers, for the log."""

    def run(self, entry: requests_replies.RequestEntry, head: WorkHead) -> AsyncGenerator[Chunk, None]:
        """Stream an answer; it has succeeded only when the chunk with its usage came. `head`: what the
        router adds to the request. Raises RunFailedError."""
        ...

    async def load(self, model: str, options: Mapping[str, int]) -> None:
        """Bring a model into memory for runs with the same options. Raises RunFailedError."""
        ...

    async def unload(self, model: str) -> None:
        """Ask for a model to leave memory. Raises RunFailedError."""
        ...

    def pull(self, model: str) -> AsyncGenerator[PullStep, None]:
        """Pull a model, step by step; it is there once the steps have ended. Raises RunFailedError."""
        ...

    async def remove(self, model: str) -> None:
        """Remove a model from the disk, and from memory. Raises RunFailedError."""
        ...

    async def identify(self) -> None:
        """Ask anew what answers, for `engine`. Raises RunFailedError if it may not run anything."""
        ...

    async def installed(self) -> Listing[InstalledModel]: ...
    async def resident(self) -> Listing[ResidentModel]: ...

    async def described(self, model: InstalledModel) -> ModelDescription:
        """Say what an installed model is. Raises httpx.HTTPError or one of UNREADABLE."""
        ...

    async def close(self) -> None: ...


class Echo:
    """Answers at once, inside the agent: what is left to measure is the grid."""

    engine = "simulated (echo)"
    where = "this process"

    async def run(
        self, entry: requests_replies.RequestEntry, head: WorkHead
    ) -> AsyncGenerator[Chunk, None]:
        yield Chunk(text=entry.prompt or "")
        yield Chunk(usage=Usage(tokens=1, prompt_tokens=1, done_reason="stop"))

    async def load(self, model: str, options: Mapping[str, int]) -> None:
        """Do nothing: everything is always loaded."""

    async def unload(self, model: str) -> None:
        """Do nothing: everything stays loaded."""

    async def pull(self, model: str) -> AsyncGenerator[PullStep, None]:
        yield PullStep("success")

    async def remove(self, model: str) -> None:
        """Do nothing: it stays."""

    async def identify(self) -> None:
        """Do nothing: it is this process."""

    async def installed(self) -> Listing[InstalledModel]:
        return Listing((InstalledModel("echo:latest", "echo", 1),))

    async def resident(self) -> Listing[ResidentModel]:
        return Listing((ResidentModel("echo:latest", "echo", 1),))

    async def described(self, model: InstalledModel) -> ModelDescription:
        return ModelDescription(model.name, model.digest, family="echo")

    async def close(self) -> None:
        """Do nothing: nothing is open."""
