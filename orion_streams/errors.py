"""Every error of the product, split by blame.

OrionError
├── ConfigError         streams.toml, a flag or the server's settings: the owner can mend it (exit 78)
├── BackendError        Redis or Ollama cannot be reached (exit 69)
│   └── TellError            a person could not be told of an alert; no URL and no token stands in it
├── AmbiguousError      a name that means several things: who asks can say which (exit 2)
├── ContractError       a client's entry breaks the contract: answered with one `rejected` reply
└── LogError            the log or its cursors are not what was written: a lost tail, a gap (exit 1)
    ├── CommitConflictError  another router committed first: fold its commit and decide again
    └── BodyGoneError        a prompt to be copied is no longer in its stream
"""

from __future__ import annotations

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_DEGRADED, EXIT_DIVERGED = 0, 1, 2, 3, 4
EXIT_NO_BACKEND, EXIT_BAD_CONFIG = 69, 78


class OrionError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line exits with."""

    exit_code = EXIT_FAILED

    @property
    def told(self) -> str:
        """What a person at a terminal reads of it."""
        return str(self)


class ConfigError(OrionError):
    """A configuration that cannot be used; the message names the place, the key and what was expected."""

    exit_code = EXIT_BAD_CONFIG


class BackendError(OrionError):
    """Redis or Ollama does not answer."""

    exit_code = EXIT_NO_BACKEND


class TellError(BackendError):
    """A target of alerts could not be told; the message names neither its URL nor its token."""


class AmbiguousError(OrionError):
    """A name on the command line that means several things; the message lists them."""

    exit_code = EXIT_USAGE


class ContractError(OrionError):
    """A client's entry that cannot be accepted. `code` is stable, the message is for a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LogError(OrionError):
    """The log contradicts itself or its guard."""


class CommitConflictError(LogError):
    """The compare-and-set refused: the log moved on. Nothing was written."""


class BodyGoneError(LogError):
    """The commit needs the body of a request whose entry is gone. Nothing was written.

    `source` is the (stream, entry id) that was looked for.
    """

    def __init__(self, source: tuple[str, str]) -> None:
        super().__init__(f"{source[0]} has no entry {source[1]}")
        self.source = source


def why(error: OSError) -> str:
    """Return what the system says of a file, and that root may, where this user may not."""
    said = error.strerror or str(error)
    return f"{said} (sudo?)" if isinstance(error, PermissionError) else said
