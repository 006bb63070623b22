"""What a model is, as Ollama says: in the log and in the grid."""

from __future__ import annotations

from msgspec import Struct


class Description(Struct, frozen=True, omit_defaults=True):
    """What Ollama's /api/show says of a model. `context_length`: what it was trained for; `num_ctx`: its
    Modelfile's, 0 for none. `truncated`: fields that were cut."""

    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    num_ctx: int = 0
    parameters: str = ""
    template: str = ""
    truncated: tuple[str, ...] = ()
