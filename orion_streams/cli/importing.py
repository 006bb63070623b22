"""`orion log import`: a file onto a server, to be read there."""

from __future__ import annotations

from orion_streams.cli import sources, where
from orion_streams.cli.exporting import say
from orion_streams.connection import connect
from orion_streams.replay.exporting import bring_in


async def run(
    file: str, prefix: str | None, as_json: bool, redis_url: str | None, config_path: str | None
) -> int:
    """Import a file or the folder of an archive, to be read. Raises BackendError, ConfigError, LogError."""
    config = where.find(redis_url, config_path)
    prefix = prefix or config.prefix
    log, redis = sources.file_source(file), connect(config.redis.url)
    try:
        first, last = await log.bounds()
        with sources.progress("importing", first, last) as see:
            moved = await bring_in(log, redis, prefix, see)
    finally:
        await redis.aclose()
    words = (
        f"positions {moved.first} to {moved.last} are in {prefix}log, to be read with a streams.toml that "
        f'says prefix = "{prefix}": no router starts on it'
    )
    say(moved, as_json, words)
    return 0
