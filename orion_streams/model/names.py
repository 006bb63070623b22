"""Names of models, as Ollama takes them. Pure.

Ollama fills in what is left out, registry.ollama.ai/library/NAME:latest, shows a name without these
defaults of host and namespace, and compares names without regard to case (types/model/name.go).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

HOST, NAMESPACE, TAG, CLOUD = "registry.ollama.ai", "library", "latest", "cloud"
LOCAL = ":local"
NEAR = 3
"""So many near misses are named."""
MOST, LONGEST = 100, 80
"""So many names, of so many characters, are looked at: the router waits for it."""


def full_model_name(model: str) -> str:
    """Return the name as Ollama lists it: without the default host and namespace, and with its tag."""
    name = model.removeprefix("https://").removeprefix("http://")
    parts = name.split("/")
    for default in (HOST, NAMESPACE):
        if len(parts) == (3 if default == HOST else 2) and parts[0].lower() == default:
            del parts[0]
    return "/".join(parts) if ":" in parts[-1] else f"{'/'.join(parts)}:{TAG}"


def is_cloud(model: str) -> bool:
    """Whether Ollama asks a model of this name outside the house, even if it has one of that name
    (internal/modelref/modelref.go)."""
    tag = full_model_name(model).rpartition(":")[2].lower()
    return tag == CLOUD or tag.endswith(f"-{CLOUD}")


def without_source(model: str) -> str:
    """Return the full name that is meant by one that ends in `:local`: of this house."""
    name = full_model_name(model)
    return full_model_name(name[: -len(LOCAL)]) if name.lower().endswith(LOCAL) else name


def host_of(model: str) -> str:
    """Return the host of the registry that Ollama pulls a full name from."""
    parts = full_model_name(model).split("/")
    return parts[0].lower() if len(parts) > 2 else HOST


def same_name(model: str, known: Collection[str]) -> str:
    """Return the one of the known names that Ollama takes for the same; else the name itself."""
    for name in dict.fromkeys((model, without_source(model))):
        alike = [each for each in known if full_model_name(each).lower() == name.lower()]
        if alike:
            return min(alike)
    return model


def near_names(model: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are most alike and begin alike, for who has mistyped one."""
    alike = [each for each in known if each[:1].lower() == model[:1].lower() and len(each) <= LONGEST]
    return get_close_matches(model[:LONGEST], sorted(alike)[:MOST], NEAR)
