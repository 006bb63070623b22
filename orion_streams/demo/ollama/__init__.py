"""Simulate Ollama nodes: Ollama's HTTP API on a simulated machine.

`async with serve(NodeSpec(...)) as node:` runs one inside this process, at `node.url`;
`python -m orion_streams.demo.ollama --spec FILE.json` runs one as a process.
"""

from orion_streams.demo.ollama.llama import RealEngineMissingError
from orion_streams.demo.ollama.ollama_server import RunningNode, serve
from orion_streams.simulation.machine_spec import DEFAULT_MODELS, ModelSpec, NodeSpec

__all__ = [
    "DEFAULT_MODELS",
    "ModelSpec",
    "NodeSpec",
    "RealEngineMissingError",
    "RunningNode",
    "serve",
]
