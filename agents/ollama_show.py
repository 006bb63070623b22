"""What Ollama's /api/show says of a model, as far as the house needs it: never its system prompt, its
example messages or its licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from orion_streams.agents.ollama_answers import amount, tells_error, words_of
from orion_streams.agents.ollama_json import an_object, read
from orion_streams.protocol.agent_entries import (
    NAMED_MAX,
    PARAMETERS_MAX,
    TEMPLATE_MAX,
    TOKENS_MAX,
    WORD_MAX,
    InstalledModel,
    ModelDescription,
)

CONTEXT_MIN = 32
"""No model works with less."""
SAYS_NUM_CTX = re.compile(r"^num_ctx +(\d{1,9})\s*$", re.MULTILINE)


def description(raw: bytes, model: InstalledModel) -> ModelDescription:
    """Read the answer of /api/show; what is missing, or no text, is left out. Raises one of UNREADABLE."""
    said = read(raw, an_object, replace_letters=True)
    if tells_error(error := said.get("error")):
        raise msgspec.ValidationError(words_of(error))
    details, about = mapping(said.get("details")), mapping(said.get("model_info"))
    # in the order of the alphabet, as Ollama gives them in any order
    parameters = "\n".join(
        sorted(line for line in text(said.get("parameters")).split("\n") if line.strip())
    )
    template = text(said.get("template"))
    found = SAYS_NUM_CTX.search(parameters)
    trained = about.get(f"{about.get('general.architecture')}.context_length")
    cut = {"parameters": len(parameters) > PARAMETERS_MAX, "template": len(template) > TEMPLATE_MAX}
    return ModelDescription(
        name=model.name,
        digest=model.digest,
        family=label(details.get("family")),
        parameter_size=label(details.get("parameter_size")),
        quantization=label(details.get("quantization_level")),
        capabilities=words(said.get("capabilities")),
        context_length=context_of(trained),
        num_ctx=context_of(int(found[1])) if found else 0,
        parameters=parameters[:PARAMETERS_MAX],
        template=template[:TEMPLATE_MAX],
        truncated=tuple(name for name, is_cut in cut.items() if is_cut),
    )


def context_of(said: object) -> int:
    """Return a context length in tokens; 0 if it is absent or cannot be."""
    found = amount(said, TOKENS_MAX)
    return found if found >= CONTEXT_MIN else 0


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """Return a text as it is, anything else as an empty one."""
    return value if isinstance(value, str) else ""


def words(value: object) -> tuple[str, ...]:
    """Return the words of a list, the first few, in the order of the alphabet."""
    found = [label(each) for each in value] if isinstance(value, list) else []
    return tuple(sorted([each for each in found if each][: NAMED_MAX * 2]))


def label(value: object) -> str:
    """Return a text as one that people are shown, anything else as an empty one."""
    return "".join(each for each in text(value) if each.isprintable())[:WORD_MAX]
