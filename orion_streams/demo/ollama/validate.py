"""Validate requests against a model as the server does, with its errors. All functions raise Refusal."""

from msgspec.structs import fields

from orion_streams.demo.ollama.engine import DEFAULT_NUM_CTX, RunnerOptions, Sampling
from orion_streams.demo.ollama.model_names import ModelName
from orion_streams.gateway.native_requests import cast_option
from orion_streams.gateway.refusal import JsonObject, Refusal
from orion_streams.simulation.machine_spec import ModelSpec

_RUNNER, _SAMPLING = ({field.name for field in fields(struct)} for struct in (RunnerOptions, Sampling))


def options(body: JsonObject, model: ModelSpec) -> tuple[RunnerOptions, Sampling]:
    """Split the options into those of the runner and those of sampling; ignore unknown ones. Raises Refusal
    500 (sic) for one of the wrong type."""
    given: JsonObject = body.get("options", {})
    cast = {key: cast_option(key, value) for key, value in given.items() if value is not None}
    runner = {key: value for key, value in cast.items() if key in _RUNNER}
    runner["num_ctx"] = max(4, runner.get("num_ctx", model.num_ctx or DEFAULT_NUM_CTX))
    if runner.get("num_gpu", -1) < 0:
        runner["num_gpu"] = -1
    sampling = {key: value for key, value in cast.items() if key in _SAMPLING}
    if "stop" in sampling:
        sampling["stop"] = tuple(sampling["stop"])
    return RunnerOptions(**runner), Sampling(**sampling)


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
