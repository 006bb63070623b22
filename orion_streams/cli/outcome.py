"""How a command ends: an exit code, and one line on stderr for an error that the owner can mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from orion_streams.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_NO_BACKEND, EXIT_OK, OrionError
from orion_streams.model.toml_values import on_one_line
from orion_streams.runtime.connection import in_short, is_untrusted, not_answering

EXIT_INTERRUPTED = 130
WIDTH = 200


def tell(line: str) -> None:
    """Write a line for a person to stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def plain(text: object) -> str:
    """Return a text, which may be of somebody else, without what a terminal obeys."""
    return "\n".join(map(on_one_line, str(text).split("\n")))


def write(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_json(data: Any) -> None:
    """Write data as one line of JSON to stdout."""
    write(msgspec.json.encode(data).decode())


def write_result(data: Any, text: str, as_json: bool) -> None:
    """Write a result to stdout: as data, or as a text for a person."""
    write(msgspec.json.encode(data).decode() if as_json else text)


def outcome(work: Callable[[], int | None]) -> int:
    """Do the work and translate its result or exception into an exit code."""
    try:
        return work() or EXIT_OK
    except OrionError as error:
        tell(f"orion: {plain(error.told)}")
        return error.exit_code
    except AuthenticationError:
        tell("orion: Redis refuses the password: put it into ORION_REDIS_PASSWORD or redis.password_file")
        return EXIT_BAD_CONFIG
    except NoPermissionError as error:
        tell(f"orion: Redis refuses: {in_short(error)}")
        return EXIT_BAD_CONFIG
    except (RedisConnectionError, RedisTimeoutError) as error:
        what = not_answering(error)
        if is_untrusted(error):
            tell(f"orion: Redis: {what}")
            return EXIT_BAD_CONFIG
        tell(f"orion: Redis does not answer ({what}): start it, or name another with --redis URL")
        return EXIT_NO_BACKEND
    except RedisError as error:
        tell(f"orion: Redis refuses: {in_short(error)}")
        return EXIT_FAILED
    except UnicodeEncodeError as error:  # a name from the command line or the disk
        tell(f"orion: {error.object[:WIDTH]!a}: expected a name in UTF-8")
        return EXIT_BAD_CONFIG
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing fails again at exit
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
