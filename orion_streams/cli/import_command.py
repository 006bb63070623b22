"""`orion log import`: put a file onto a server, to be read there."""

from __future__ import annotations

from orion_streams.cli import grid_discovery, log_sources
from orion_streams.cli.options import CommonOptions
from orion_streams.cli.outcome import write_result
from orion_streams.replay.export import bring_in
from orion_streams.runtime.connection import connect


async def run(*, file: str, prefix: str | None, common: CommonOptions) -> int:
    """Import a file, or the folder of an archive. Raises BackendError, ConfigError, LogError."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    prefix = prefix or config.prefix
    log, redis = log_sources.file_source(file), connect(config.redis.url)
    try:
        first, last = await log.bounds()
        with log_sources.progress("importing", first, last) as see:
            moved = await bring_in(log, redis, prefix, see)
    finally:
        await redis.aclose()
    text = (
        f"positions {moved.first} to {moved.last} are in {prefix}log, to be read with a streams.toml that "
        f'says prefix = "{prefix}": no router starts on it'
    )
    write_result(moved, text, common.as_json)
    return 0
