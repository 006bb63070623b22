"""Validate requests as the server does, with its errors. All functions raise Refusal."""

from typing import Any

import msgspec

from orion_streams.demo.ollama import golang
from orion_streams.demo.ollama.engine import DEFAULT_NUM_CTX, JsonObject, Refusal, RunnerOptions, Sampling
from orion_streams.demo.ollama.model_names import ModelName
from orion_streams.demo.ollama.runner import FOREVER_S
from orion_streams.simulation.machine_spec import ModelSpec

_COMMON = {
    "model": "string",
    "stream": "bool",
    "options": "map[string]interface {}",
    "truncate": "bool",
    "shift": "bool",
    "logprobs": "bool",
    "top_logprobs": "int",
}
_GENERATE = _COMMON | {
    "prompt": "string",
    "suffix": "string",
    "system": "string",
    "template": "string",
    "context": "[]int",
    "raw": "bool",
    "images": "[]api.ImageData",
}
_CHAT = _COMMON | {"messages": "[]api.Message", "tools": "api.Tools"}
_MESSAGE = {"role": "string", "content": "string", "images": "[]api.ImageData"}
_TOOL = {"type": "string", "function": "api.ToolFunction"}
_EMBED = {
    "model": "string",
    "truncate": "bool",
    "dimensions": "int",
    "options": "map[string]interface {}",
}
_EMBEDDING = {"model": "string", "prompt": "string", "options": "map[string]interface {}"}
_NAMED = {"model": "string", "name": "string"}

_NAMES = {int: "integer", float: "float32", bool | None: "boolean", tuple[str, ...]: "array"}
_RUNNER_TYPES, _SAMPLING_TYPES = (
    {field.name: _NAMES[field.type] for field in msgspec.structs.fields(struct)}
    for struct in (RunnerOptions, Sampling)
)
_THINK_LEVELS = ("high", "medium", "low", "max")


def read(raw: bytes) -> Any:
    """Decode the JSON value of a body."""
    return golang.decode(raw, when_empty="missing request body")


def generate_request(decoded: Any) -> JsonObject:
    """Check the types of a generate request."""
    body = golang.check_types(decoded, "api.GenerateRequest", _GENERATE)
    return _checked_think(_completed(body))


def chat_request(decoded: Any) -> JsonObject:
    """Check the types of a chat request, its messages and tools."""
    body = golang.check_types(decoded, "api.ChatRequest", _CHAT)
    messages, tools = body.get("messages", []), body.get("tools", [])
    body["messages"] = [golang.check_types(m, "api.Alias", _MESSAGE) for m in messages]
    body["tools"] = [golang.check_types(tool, "api.Tool", _TOOL) for tool in tools]
    return _checked_think(_completed(body))


def embed_request(decoded: Any) -> JsonObject:
    """Check the types of an embed request."""
    return _completed(golang.check_types(decoded, "api.EmbedRequest", _EMBED))


def embedding_request(decoded: Any) -> JsonObject:
    """Check the types of a request of the older embeddings API."""
    return _completed(golang.check_types(decoded, "api.EmbeddingRequest", _EMBEDDING))


def named_request(decoded: Any, struct: str) -> str:
    """Return the only field of a request: `model`, or its older key `name`."""
    body = golang.check_types(decoded, struct, _NAMED)
    return str(body.get("model") or body.get("name") or "")


def embed_inputs(body: JsonObject) -> list[str]:
    """Return the texts to embed: one string, or a list of strings."""
    wanted = body.get("input")
    if wanted is None or wanted == "":
        return []
    if isinstance(wanted, str):
        return [wanted]
    if not isinstance(wanted, list) or not all(isinstance(text, str) for text in wanted):
        raise Refusal(400, "invalid input type")
    return wanted


def options(body: JsonObject, model: ModelSpec) -> tuple[RunnerOptions, Sampling]:
    """Split the options into those of the runner and those of sampling; ignore unknown ones. Raises Refusal
    500 (sic) for one of the wrong type."""
    given: JsonObject = body.get("options", {})
    known = _RUNNER_TYPES | _SAMPLING_TYPES
    cast = {
        key: _option(key, value, known[key])
        for key, value in given.items()
        if key in known and value is not None
    }
    runner = {key: value for key, value in cast.items() if key in _RUNNER_TYPES}
    runner["num_ctx"] = max(4, runner.get("num_ctx", model.num_ctx or DEFAULT_NUM_CTX))
    if runner.get("num_gpu", -1) < 0:
        runner["num_gpu"] = -1
    sampling = {key: value for key, value in cast.items() if key in _SAMPLING_TYPES}
    return RunnerOptions(**runner), Sampling(**sampling)


def format_or_refusal(body: JsonObject) -> tuple[Any, Refusal | None]:
    """Return the format, or its refusal, which is raised only after the load."""
    wanted = body.get("format")
    if wanted is None or wanted == "":
        return None, None
    if wanted == "json" or isinstance(wanted, dict):
        return wanted, None
    raw = msgspec.json.encode(msgspec.json.encode(wanted).decode()).decode()
    expected = 'expected "json" or a valid JSON Schema object'
    return None, Refusal(500, f"invalid format: {raw}; {expected}")


def check_logprobs(body: JsonObject) -> None:
    if not 0 <= body.get("top_logprobs", 0) <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")


def thinks(body: JsonObject, model: ModelSpec) -> bool:
    """Tell whether the model thinks: by default if it can. Raises Refusal 400 if it cannot and must."""
    think = body.get("think")
    if "thinking" in model.capabilities:
        return think is not False
    if think:
        raise Refusal(400, f'"{body["model"]}" does not support thinking')
    return False


def check_capabilities(body: JsonObject, model: ModelSpec, verb: str, *needed: str) -> None:
    """Raise Refusal 400 when the model lacks a needed capability."""
    if "completion" not in model.capabilities:
        raise Refusal(400, f'"{body["model"]}" does not support {verb}')
    missing = [need for need in needed if need not in model.capabilities]
    if missing:
        name = ModelName.parse(model.name)
        raise Refusal(400, f"{name.namespaced} does not support " + "\n".join(missing))


def _checked_think(body: JsonObject) -> JsonObject:
    think = body.get("think")
    if not (think is None or isinstance(think, bool) or think in _THINK_LEVELS):
        levels = ", ".join(_THINK_LEVELS)
        raise Refusal(400, f"invalid think value (must be true, false, or one of {levels})")
    return body


def _completed(body: JsonObject) -> JsonObject:
    """Add an empty `model`, and convert `keep_alive` to seconds; below 0 means forever."""
    body = {"model": "", **body}
    if "keep_alive" not in body:
        return body
    value = body["keep_alive"]
    if isinstance(value, bool | list | dict):
        raise Refusal(400, "Unsupported type of keep_alive")
    seconds = golang.parse_duration(value) if isinstance(value, str) else float(value)
    return {**body, "keep_alive": FOREVER_S if seconds < 0 else min(seconds, FOREVER_S)}


def _option(key: str, value: object, wanted: str) -> Any:
    match wanted:
        case "integer" if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
        case "boolean" if isinstance(value, bool):
            return value
        case "float32" if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case "array" if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        case _:
            raise Refusal(500, f'option "{key}" must be of type {wanted}')
