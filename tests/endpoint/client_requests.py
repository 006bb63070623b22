"""What the clients ask: the same in every language."""

from __future__ import annotations

import base64
from typing import Any

HELLO: Any = [{"role": "user", "content": "Say hello"}]
FIXED = {"temperature": 0}


def tool(name: str, argument: str) -> dict[str, Any]:
    """A function with one text as its argument."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": f"The {name} of a place", "parameters": parameters},
    }


TOOLS: Any = [tool("weather", "place"), tool("time", "zone")]
BOTH = "Call weather and time for Bonn"
"""The simulated model calls each tool that the prompt names."""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""
PNG_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
