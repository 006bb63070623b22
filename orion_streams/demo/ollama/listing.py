"""The routes that list models: version, tags, ps, show, delete, and /v1/models."""

from aiohttp import web

from orion_streams.demo.ollama import golang, validate
from orion_streams.demo.ollama.answer_lines import not_found
from orion_streams.demo.ollama.engine import JsonObject, Refusal
from orion_streams.demo.ollama.model_names import ModelName
from orion_streams.demo.ollama.native_api import resolve
from orion_streams.demo.ollama.runner import Runner
from orion_streams.demo.ollama.simulated_node import Node
from orion_streams.demo.ollama.write_json import json_response
from orion_streams.simulation.machine_spec import ModelSpec

VERSION = "0.24.0"

_NETWORK: JsonObject = {
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.layer_norm_rms_epsilon": 1e-06,
    "attention.sliding_window": 512,
    "attention.value_length": 256,
    "block_count": 18,
    "rope.freq_base": 1_000_000,
}
_TOKENIZER: JsonObject = {
    "add_bos_token": True,
    "add_eos_token": False,
    "add_sep_token": False,
    "add_space_prefix": False,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "model": "llama",
    "padding_token_id": 0,
    "pre": "default",
    "scores": None,
    "token_type": None,
    "tokens": None,
    "unknown_token_id": 3,
}


class Listing:
    """Handlers that need no model in memory."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def version(self, _: web.Request) -> web.Response:
        return json_response({"version": VERSION})

    async def tags(self, _: web.Request) -> web.Response:
        return json_response({"models": [_tag(model) for model in self._newest_first()]})

    async def ps(self, _: web.Request) -> web.Response:
        scheduler = self._node.scheduler
        models = [_process(r, scheduler.expires_at_s(r)) for r in scheduler.resident()]
        return json_response({"models": models})

    async def show(self, request: web.Request) -> web.Response:
        name = validate.named_request(validate.read(await request.read()), "api.ShowRequest")
        required = Refusal(400, "model is required")
        model = resolve(self._node, name, empty=required, missing=not_found(name))
        return json_response(_shown(model))

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a model from the list; a resident one stays in memory."""
        name = validate.named_request(validate.read(await request.read()), "api.DeleteRequest")
        parsed = ModelName.parse(name)
        if name and not parsed.valid:
            raise Refusal(400, f'name "{name}" is invalid')
        required = Refusal(400, "model is required")
        resolve(self._node, name, empty=required, missing=not_found(name))
        del self._node.installed[parsed.key]
        return web.Response()

    async def v1_models(self, _: web.Request) -> web.Response:
        data = [_v1_model(model.name, model) for model in self._newest_first()]
        # A nil slice: no models is null, not an empty list.
        return json_response({"object": "list", "data": data or None}, charset=False, newline=True)

    async def v1_model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        required = Refusal(400, "model is required")
        model = resolve(self._node, name, empty=required, missing=not_found(name))
        return json_response(_v1_model(name, model), charset=False, newline=True)

    def _newest_first(self) -> list[ModelSpec]:
        models = self._node.installed.values()
        return sorted(models, key=lambda model: model.modified_at_s, reverse=True)


def _tag(model: ModelSpec) -> JsonObject:
    name = ModelName.parse(model.name).shortest
    return {
        "name": name,
        "model": name,
        "modified_at": golang.timestamp(model.modified_at_s * 10**9),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _process(runner: Runner, expires_at_s: float) -> JsonObject:
    name = ModelName.parse(runner.model.name).shortest
    return {
        "name": name,
        "model": name,
        "size": runner.resident_bytes,
        "digest": runner.model.digest,
        "details": _details(runner.model),
        "expires_at": golang.timestamp(round(expires_at_s * 1e9)),
        "size_vram": 0,
        "context_length": runner.num_ctx,
    }


def _details(model: ModelSpec, parent: str = "") -> JsonObject:
    return {
        "parent_model": parent,
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def _v1_model(name: str, model: ModelSpec) -> JsonObject:
    return {
        "id": name,
        "object": "model",
        "created": model.modified_at_s,
        "owned_by": ModelName.parse(name).namespace,
    }


def _shown(model: ModelSpec) -> JsonObject:
    blob = f"models/blobs/sha256-{model.blob}"
    modelfile = (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {model.name}\n\nFROM {blob}\nTEMPLATE {{{{ .Prompt }}}}\n"
    )
    return {
        "modelfile": modelfile,
        "template": "{{ .Prompt }}",
        "details": _details(model, blob),
        "model_info": _model_info(model),
        "tensors": [{"name": "output_norm.weight", "type": "F32", "shape": [model.embedding_length]}],
        "capabilities": list(model.capabilities),
        "modified_at": golang.timestamp(model.modified_at_s * 10**9),
    }


def _model_info(model: ModelSpec) -> JsonObject:
    """Return the keys of a GGUF file: the sizes of the model, and a made-up network."""
    network = {
        **_NETWORK,
        "context_length": model.context_length,
        "embedding_length": model.embedding_length,
        "feed_forward_length": 3 * model.embedding_length,
    }
    general = {
        "architecture": model.family,
        "basename": ModelName.parse(model.name).model,
        "file_type": 15,
        "license": "simulated",
        "parameter_count": model.parameter_count,
        "quantization_version": 2,
        "size_label": model.parameter_size,
        "tags": None,
        "type": "model",
    }
    return {
        **{f"{model.family}.{key}": network[key] for key in sorted(network)},
        **{f"general.{key}": value for key, value in general.items()},
        **{f"tokenizer.ggml.{key}": value for key, value in _TOKENIZER.items()},
    }
