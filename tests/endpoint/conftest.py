"""One endpoint for all clients of the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endpoint.running_endpoint import RunningEndpoint


@pytest.fixture(scope="session")
def endpoint() -> Iterator[RunningEndpoint]:
    """A simulated grid of processes with a gateway."""
    with RunningEndpoint() as running:
        yield running
