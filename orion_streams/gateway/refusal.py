"""What an API answers instead of an answer."""

from typing import Any

JsonObject = dict[str, Any]

_MAX_MESSAGE = 1_000
"""Characters of a message: it may quote what the client sent."""


class Refusal(Exception):
    """A request is answered by an error: an HTTP status and a message, in the form of its API.
    `retry_after_s`: when to ask again; 0: not said."""

    def __init__(self, status: int, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message[:_MAX_MESSAGE]
        self.retry_after_s = retry_after_s


def not_found(name: str) -> Refusal:
    """Return what a name that no model has is answered with."""
    return Refusal(404, f"model '{name}' not found")


def not_found_to_embed(name: str) -> Refusal:
    """Return the same in the words of the embedding calls."""
    return Refusal(404, f'model "{name}" not found, try pulling it first')
