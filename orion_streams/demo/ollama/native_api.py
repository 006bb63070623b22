"""`/api/generate` and `/api/chat`: convert a request body to a call."""

from msgspec.structs import replace

from orion_streams.demo.ollama import validate
from orion_streams.demo.ollama.answer_lines import Call
from orion_streams.demo.ollama.engine import Job, Sampling
from orion_streams.demo.ollama.model_names import ModelName
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.gateway import native_requests
from orion_streams.gateway.refusal import JsonObject, Refusal, not_found
from orion_streams.simulation.machine_spec import ModelSpec

_NO_IMAGES = (
    "Failed to create new sequence: failed to process inputs: "
    "this model is missing data required for image input"
)


def resolve(
    node: Node, name: str, *, empty: Refusal | None = None, missing: Refusal | None = None
) -> ModelSpec:
    """Return the installed model of a name. Raises `empty` without a name, `missing` without such a model,
    or Refusal 400 for an invalid name."""
    if not name.strip():
        raise empty or Refusal(400, "model is required")
    parsed = ModelName.parse(name)
    if not parsed.valid:
        raise Refusal(400, "invalid model name")
    model = node.find(parsed)
    if model is None:
        raise missing or not_found(name)
    return model


def generate_call(node: Node, body: JsonObject) -> Call:
    """Check a generate request, in the order of the real server. Raises Refusal."""
    native_requests.check_logprobs(body)
    name = body["model"]
    model = resolve(node, name, empty=not_found(name))
    prompt: str = body.get("prompt", "")
    if not prompt and native_requests.unloads(body):
        return Call(name, model, unload=True)
    raw = body.get("raw", False)
    native_requests.check_raw(body)
    think = validate.thinks(body, model)
    needed = ("insert",) if body.get("suffix") else ()
    validate.check_capabilities(body, model, "generate", *needed)
    call, sampling = _loading(body, model)
    if not prompt:
        return call
    if not raw:
        prompt = _joined(body.get("system", ""), prompt)
    job = _job(body, prompt + body.get("suffix", ""), sampling, think=think)
    call = replace(call, job=job, with_context=not raw)
    return _refused_later(call, body, images=bool(body.get("images")))


def chat_call(node: Node, body: JsonObject) -> Call:
    """Check a chat request. Raises Refusal."""
    native_requests.check_logprobs(body)
    name = body["model"]
    model = resolve(node, name)
    messages: list[JsonObject] = body["messages"]
    if not messages and native_requests.unloads(body):
        return Call(name, model, unload=True)
    think = validate.thinks(body, model)
    needed = ("tools",) if body["tools"] else ()
    validate.check_capabilities(body, model, "chat", *needed)
    call, sampling = _loading(body, model)
    if not messages:
        return call
    # Messages of unknown roles are dropped; an empty rest is answered all the same.
    said = [message.get("content", "") for message in native_requests.spoken(messages)]
    # The result of a tool is answered with text, not with another call.
    tools = () if messages[-1].get("role", "").lower() == "tool" else body["tools"]
    job = replace(_job(body, _joined(*said), sampling, think=think), tools=tuple(tools))
    images = any(message.get("images") for message in messages)
    return _refused_later(replace(call, job=job), body, images=images)


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _loading(body: JsonObject, model: ModelSpec) -> tuple[Call, Sampling]:
    """Return a call that only loads, and the sampling options of the body."""
    runner_options, sampling = validate.options(body, model)
    keep_s = native_requests.keep_alive_s(body)
    call = Call(body["model"], model, body.get("stream", True), keep_s, runner_options)
    return call, sampling


def _job(body: JsonObject, prompt: str, sampling: Sampling, *, think: bool) -> Job:
    return Job(
        prompt=prompt,
        sampling=sampling,
        context=tuple(body.get("context", ())),
        format=native_requests.format_or_refusal(body)[0],
        truncate=body.get("truncate", True),
        shift=body.get("shift", True),
        logprobs=body.get("logprobs", False),
        top_logprobs=body.get("top_logprobs", 0),
        think=think,
    )


def _refused_later(call: Call, body: JsonObject, *, images: bool) -> Call:
    """Add the refusals that the real server raises only after the load."""
    _, refusal = native_requests.format_or_refusal(body)
    if refusal is None and images and "vision" not in call.model.capabilities:
        refusal = Refusal(500, _NO_IMAGES)
    return replace(call, refusal=refusal)
