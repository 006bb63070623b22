"""The sender of alerts can log in as the reader of the log: all that it needs is granted, and no more."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from orion_streams.agents.alert_file import SenderState
from orion_streams.agents.alert_sender import Sender
from orion_streams.agents.alert_watch import Watch
from orion_streams.agents.grid_follower import GridFollower
from orion_streams.eventlog.redis_log import RedisLog
from orion_streams.model.alert_rules import DEFAULT_ALERTS
from orion_streams.runtime.connection import connect
from orion_streams.runtime.server_check import wait_for_server
from tests.agents.test_alert_sender import ear
from tests.contract.contract_grid import running, stop
from tests.helpers import eventually
from tests.security.guarded import ADMIN, guarded


async def test_it_follows_the_log_as_the_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It hears the grid and looks at the archive; clients that nobody reads it may not look for, and says
    so once."""
    caplog.set_level(logging.WARNING, "orion.alerts")
    with guarded("valkey", tmp_path) as house:
        prefix = house.config.prefix
        async with running(house.url(ADMIN), prefix):
            redis = connect(house.url("orion-reader"))
            await wait_for_server(redis, lambda _: None)
            sender = Sender(DEFAULT_ALERTS, [ear()], SenderState(prefix), lambda _: None)
            follower = GridFollower(redis, prefix, listeners=(sender,))
            watch = Watch(house.config, redis, RedisLog(redis, prefix), follower, sender)
            task = asyncio.create_task(follower.run())
            await eventually(lambda: task.done() or (sender.position or 0) > 9, "that it follows")
            await watch.look(seldom=True)
            await watch.look(seldom=True)
            assert await stop([task]) == []
            await redis.aclose()
    assert (
        caplog.text.count("clients that nobody reads are not looked for: this user of the server may not")
        == 1
    )
    assert "not looked at" not in caplog.text
