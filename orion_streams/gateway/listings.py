"""What the endpoint says of its models, in Ollama's and OpenAI's forms, from the folded table alone. Pure.

No node is asked: with all of them busy or away the answers are the same. A model is listed if a node that
answers requests has it on disk; an alias, if its model is listed. What the log does not know is left out
where clients allow it, else it is one of the constants below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from orion_streams.decider.estimates import demand_now
from orion_streams.decider.memory import descriptions
from orion_streams.gateway.view_models import lacked_by
from orion_streams.model.description import Description
from orion_streams.model.marks import is_heard
from orion_streams.model.names import NAMESPACE, full_model_name, same_name
from orion_streams.model.policy import NO_RULES
from orion_streams.model.state import Grid, Installed, Node, Resident

MB = 1_000_000
MODIFIED_AT = "1970-01-01T00:00:00+00:00"
"""When a model came onto a disk: the log does not say. In `created` it is 0."""
EXPIRES_AT = "2100-01-01T00:00:00+00:00"
"""A model goes when its place is needed, not at a time; clients show a time so far away as "for ever"."""
FORMAT = "gguf"
"""Of a model's file: what Ollama runs, but for the few that only it can name."""
DEFAULT_VERSION = "0.24.0"
"""The Ollama whose answers these were compared with: said where no node has told its own."""
UNKNOWN_CAN = ("completion",)
"""What a model is said to be able to do that no node has described yet."""

Aliases = Mapping[str, str]
"""Other names of models, by configuration."""


class Listed(Struct, frozen=True):
    """A model under one of its names, as most nodes have it."""

    name: str
    model: str
    on_disk: Installed


def find(grid: Grid, name: str, aliases: Aliases) -> str | None:
    """Return the full name of the model that is listed under the name, or None: never another one. As the
    router does it, a name without a tag means `latest`, and case does not count; nor do spaces around."""
    full = full_model_name(name.strip())
    found = installed_as(grid, full)
    if found is not None or not aliases:
        return found
    for alias, model in aliases.items():
        if full_model_name(alias).lower() == full.lower():
            return installed_as(grid, full_model_name(model))
    return None


def installed_as(grid: Grid, full: str) -> str | None:
    """Return the name under which a node that answers requests has the model on disk."""
    nodes = serving(grid)
    if any(full in node.installed for node in nodes):
        return full
    found = same_name(full, {name for node in nodes for name in node.installed})
    return found if any(found in node.installed for node in nodes) else None


def serving(grid: Grid) -> list[Node]:
    """Return the nodes that answer requests, by name."""
    return [node for _, node in sorted(grid.nodes.items()) if node.rules.takes_inference]


def untold(grid: Grid) -> list[str]:
    """Return the nodes that answer requests and have not told yet which models they have."""
    return [node.rules.name for node in serving(grid) if not node.inventory_known]


def listed(grid: Grid, aliases: Aliases) -> list[Listed]:
    """List models and aliases: first those that are asked for most of late, then by name. An alias that is
    the name of a model is that model."""
    copies: dict[str, list[Installed]] = {}
    for node in serving(grid):
        for name, on_disk in node.installed.items():
            copies.setdefault(name, []).append(on_disk)
    rows = {name: Listed(name, name, most_common(found)) for name, found in copies.items()}
    taken = {name.lower() for name in rows}
    for alias, model in aliases.items():
        name, target = full_model_name(alias), installed_as(grid, full_model_name(model))
        if name.lower() in taken:
            continue
        taken.add(name.lower())
        if target is not None:
            rows[name] = Listed(name, target, rows[target].on_disk)
    return sorted(rows.values(), key=lambda row: (-demand_now(grid, row.model), row.name))


def most_common(copies: list[Installed]) -> Installed:
    """Return what most nodes have, of equals the first."""
    return max(copies, key=copies.count)


def about(grid: Grid, digest: str, model: str) -> Description:
    """Return what is known of a model: as described by its digest, else as any node has it."""
    found = grid.described.get(digest)
    return found or next(descriptions(grid, model), Description())


def cannot_think(grid: Grid, model: str) -> bool:
    """Whether all that is known of a model's copies says that it has no thoughts."""
    known = [each.capabilities for each in descriptions(grid, model)]
    return bool(known) and not any("thinking" in can or not can for can in known)


def version(grid: Grid) -> dict[str, Any]:
    """Return the answer of /api/version: the lowest of the nodes that answer requests."""
    known = [found for node in serving(grid) if (found := version_of(node.engine)) is not None]
    return {"version": ".".join(map(str, min(known))) if known else DEFAULT_VERSION}


OLLAMA_VERSION = re.compile(r"ollama v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


def version_of(engine: str) -> tuple[int, int, int] | None:
    """Return the version that an engine's name tells, without what comes after its numbers; None if it
    tells none, as 0.0.0 does, which an Ollama says that was built by hand."""
    found = OLLAMA_VERSION.match(engine)
    if found is None:
        return None
    numbers = (int(found[1]), int(found[2]), int(found[3] or 0))
    return numbers if any(numbers) else None


def tags(grid: Grid, aliases: Aliases) -> dict[str, Any]:
    """Return the answer of /api/tags."""
    return {"models": [tag(grid, row) for row in listed(grid, aliases)]}


def tag(grid: Grid, row: Listed) -> dict[str, Any]:
    """Return a row of /api/tags; its size is in bytes, in whole MB."""
    return {
        "name": row.name,
        "model": row.name,
        "modified_at": MODIFIED_AT,
        "size": row.on_disk.size_mb * MB,
        "digest": row.on_disk.digest,
        "details": details(about(grid, row.on_disk.digest, row.model)),
    }


def details(known: Description) -> dict[str, Any]:
    """Return the `details` of a model; a word that is not known is empty."""
    return {
        "parent_model": "",
        "format": FORMAT,
        "family": known.family,
        "families": [known.family] if known.family else [],
        "parameter_size": known.parameter_size,
        "quantization_level": known.quantization,
    }


def ps(grid: Grid) -> dict[str, Any]:
    """Return the answer of /api/ps: each model once, as the node has it that gives it the largest context.
    What a silent node had in memory is not known."""
    largest: dict[str, Resident] = {}
    for name, row in residents(grid):
        if name not in largest or row.context > largest[name].context:
            largest[name] = row
    order = sorted(largest, key=lambda name: (-demand_now(grid, name), name))
    return {"models": [process(grid, name, largest[name]) for name in order]}


def residents(grid: Grid) -> Iterator[tuple[str, Resident]]:
    """Yield the models in the memory of nodes that answer requests and are heard."""
    for node in serving(grid):
        if is_heard(grid, node):
            yield from node.resident.items()


def process(grid: Grid, name: str, row: Resident) -> dict[str, Any]:
    """Return a row of /api/ps; its size is in bytes, in whole MB."""
    return {
        "name": name,
        "model": name,
        "size": row.size_mb * MB,
        "digest": row.digest,
        "details": details(about(grid, row.digest, name)),
        "expires_at": EXPIRES_AT,
        "size_vram": 0,
        "context_length": row.context,
    }


def show(grid: Grid, name: str, aliases: Aliases) -> dict[str, Any] | None:
    """Return the answer of /api/show, or None for a model that is not listed. `model_info` has the few keys
    that clients read, each only when it is known."""
    model, full = find(grid, name, aliases), full_model_name(name.strip())
    if model is None:
        return None
    copies = [node.installed[model] for node in serving(grid) if model in node.installed]
    known = about(grid, most_common(copies).digest, model)
    return {
        "modelfile": modelfile(model if full.lower() == model.lower() else full, known),
        **({"parameters": known.parameters} if known.parameters else {}),
        "template": known.template,
        "details": details(known),
        "model_info": model_info(grid, model, known),
        "capabilities": list(known.capabilities or UNKNOWN_CAN),
        "modified_at": MODIFIED_AT,
    }


def modelfile(name: str, known: Description) -> str:
    """Return a Modelfile that builds on the model by its name, as its blob is a node's own affair."""
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {name}",
        "",
        f"FROM {name}",
        *([f"TEMPLATE {quoted(known.template)}"] if known.template else []),
        *(
            f"PARAMETER {' '.join(each.split(maxsplit=1))}"
            for each in known.parameters.split("\n")
            if each.strip()
        ),
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """Return a text as a Modelfile holds it: in quotes if it has lines of its own, or white space around
    it (Ollama's parser/parser.go)."""
    if "\n" not in text and text == text.strip(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def model_info(grid: Grid, model: str, known: Description) -> dict[str, Any]:
    """Return the keys of a model's file that are known. The context length is the longest that a request
    gets here: what the model was trained for, or what streams.toml allows it."""
    info: dict[str, Any] = {}
    if known.family:
        info["general.architecture"] = known.family
        if known.context_length:
            info[f"{known.family}.context_length"] = context_limit(grid, model, known.context_length)
    count = parameter_count(known.parameter_size)
    return {**info, "general.parameter_count": count} if count else info


def context_limit(grid: Grid, model: str, trained: int) -> int:
    """Return the longest context that a request for the model gets."""
    rules = grid.models.get(same_name(model, grid.models), NO_RULES)
    return min(each for each in (trained, rules.num_ctx, rules.max_num_ctx) if each)


PARAMETER_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([KMBT]?)")


def parameter_count(size: str) -> int:
    """Return the number that a parameter size such as "268.10M" was rounded from, as near as it tells; 0 if
    it tells none."""
    found = PARAMETER_SIZE.fullmatch(size)
    if found is None:
        return 0
    return round(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[found[2]])


def v1_models(grid: Grid, aliases: Aliases) -> dict[str, Any]:
    """Return the answer of /v1/models."""
    return {"object": "list", "data": [v1_row(row.name) for row in listed(grid, aliases)]}


def v1_model(grid: Grid, name: str, aliases: Aliases) -> dict[str, Any] | None:
    """Return the answer of /v1/models/NAME, under the name as it was asked for; None for a model that is
    not listed."""
    return v1_row(name) if find(grid, name, aliases) is not None else None


def v1_row(name: str) -> dict[str, Any]:
    """Return a model as OpenAI's API has it; the namespace of its name owns it."""
    parts = name.split("/")
    owner = parts[-2] if len(parts) > 1 else NAMESPACE
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def nodes_to_change(grid: Grid, op: str, model: str) -> list[str]:
    """Return the nodes that a `pull` or `remove` means which names none, sorted: those that are known
    to lack the model, or those that have it."""
    full = full_model_name(model)
    if op == "pull":
        return list(lacked_by(grid, full))
    nodes = ((name, node) for name, node in sorted(grid.nodes.items()) if node.rules.takes_inference)
    return [name for name, node in nodes if same_name(full, node.installed) in node.installed]
