"""The protocol between the server and an engine that makes tokens.

A run is a stream of events: one `Prefilled`, then `Piece`s, then one `Finished`. An engine refuses
a job by raising `Refusal` before the first event; cancelling the iteration cancels the run.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, TypeVar

import msgspec

from orion_streams.gateway.refusal import JsonObject, Refusal
from orion_streams.simulation.machine_spec import ModelSpec

DoneReason = Literal["stop", "length"]

DEFAULT_NUM_CTX = 4096

T = TypeVar("T")


class LateRefusal(Refusal):
    """A refusal of the model itself, when an answer may have begun."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.message)


class RunnerOptions(msgspec.Struct, frozen=True):
    """The options a model is loaded with; other values mean another load."""

    num_ctx: int = DEFAULT_NUM_CTX
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int = 0
    use_mmap: bool | None = None
    num_thread: int = 0


class Sampling(msgspec.Struct, frozen=True):
    """The options of one run. `num_predict` below 1: until the model ends by itself."""

    num_predict: int = -1
    seed: int = -1
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    repeat_penalty: float = 1.1
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """One run: the rendered prompt and how to go on from it.

    `context` holds the token ids of an earlier answer to continue; `format` is "json", a JSON
    schema, or None; `truncate` cuts a prompt that is too long instead of refusing it; `shift`
    forgets the oldest tokens when the context is full instead of stopping.
    """

    prompt: str
    sampling: Sampling = Sampling()
    context: tuple[int, ...] = ()
    format: Literal["json"] | JsonObject | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    tools: tuple[JsonObject, ...] = ()
    think: bool = False


class Prefilled(msgspec.Struct, frozen=True):
    """The prompt was read; its length in tokens, after truncation."""

    tokens: int


class Piece(msgspec.Struct, frozen=True):
    """A visible token: of the answer or the thinking, or a whole tool call."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[JsonObject, ...] = ()
    logprobs: tuple[JsonObject, ...] = ()


class Finished(msgspec.Struct, frozen=True):
    """The end of a run. `tokens`: all that were generated, visible or not."""

    reason: DoneReason
    tokens: int


Event = Prefilled | Piece | Finished


class LoadedModel(Protocol):
    """A model in memory."""

    def run(self, job: Job) -> AsyncGenerator[Event, None]: ...

    async def embed(self, text: str, *, truncate: bool) -> tuple[list[float], int]:
        """Return the vector, of length 1, and the number of tokens read."""

    async def tokenize(self, text: str) -> list[int]:
        """Return token ids, without one for the beginning."""

    async def close(self) -> None:
        """Free the memory."""


class Engine(Protocol):
    """Loads models. `inspect` takes the time that every request costs before it is queued."""

    @property
    def name(self) -> Literal["synthetic", "llama"]: ...

    async def inspect(self, model: ModelSpec) -> None: ...

    async def load(self, model: ModelSpec, options: RunnerOptions) -> LoadedModel: ...


def context_size(model: ModelSpec, options: RunnerOptions) -> int:
    """Return the context length of a runner: as requested, at most that of the model."""
    return min(options.num_ctx, model.context_length)


def fitted_prompt(tokens: Sequence[T], num_ctx: int, *, truncate: bool) -> Sequence[T]:
    """Truncate a prompt to its first 5 tokens and its end, or raise Refusal 400.

    Truncation is silent: a caller sees it only in `prompt_eval_count` being `num_ctx`.
    """
    if len(tokens) <= num_ctx:
        return tokens
    if not truncate:
        raise Refusal(400, "the input length exceeds the context length")
    keep = min(5, num_ctx - 1)
    return [*tokens[:keep], *tokens[len(tokens) - (num_ctx - keep) :]]
