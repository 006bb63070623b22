"""Simulated Ollama nodes: Ollama's HTTP API without Ollama, on a simulated machine.

`async with serve(NodeSpec(...)) as node:` runs one inside this process, at `node.url`;
`python -m orion_streams.simulation.ollama --spec FILE.json` runs one as a process.
"""

from .llama import RealEngineMissingError
from .server import RunningNode, serve
from .spec import DEFAULT_MODELS, ModelSpec, NodeSpec

__all__ = [
    "DEFAULT_MODELS",
    "ModelSpec",
    "NodeSpec",
    "RealEngineMissingError",
    "RunningNode",
    "serve",
]
