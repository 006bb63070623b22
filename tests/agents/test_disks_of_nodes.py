"""`/api/pull` and `/api/delete` change one node after another: one that fails keeps no other from it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from orion_streams import RequestRejectedError
from orion_streams.agents.gateway import Gateway
from orion_streams.agents.gateway_disk import Disks
from orion_streams.client.disk_orders import PullProgress
from orion_streams.client.streams_client import AsyncClient
from orion_streams.gateway.refusal import Refusal
from tests.grids import MODEL, grid, node

NEW = "new:1b"
AWAY = RequestRejectedError("x", "node_away", "no answer.")


class House:
    """A client of nodes, some of which are away; what it ordered is done at once."""

    def __init__(self, *away: str) -> None:
        self.away, self.asked = away, list[str]()
        self.folded = grid(*(node(name) for name in "abc"))

    def change(self, name: str, has: bool) -> None:
        """The node's list of models follows."""
        self.asked.append(name)
        if name in self.away:
            raise AWAY
        row = self.folded.nodes[name]
        models = {**row.installed, NEW: row.installed[MODEL]} if has else {}
        self.folded.nodes[name] = replace(row, installed=models)

    async def pull(self, model: str, name: str, request_id: str) -> AsyncGenerator[PullProgress, None]:
        """One step."""
        self.change(name, has=True)
        yield PullProgress(name, f"pulling {model}")

    async def remove(self, model: str, name: str) -> None:
        """At once."""
        self.change(name, has=False)


def disks(house: House) -> tuple[Disks, AsyncClient]:
    """The handlers of a gateway that follows the house, and their client."""
    gateway = SimpleNamespace(follower=house, new_id=lambda: "x")
    return Disks(cast(Gateway, gateway)), cast(AsyncClient, house)


@pytest.mark.parametrize("away", [(), ("a",), ("a", "c")])
async def test_a_model_goes_from_all_that_answer(away: tuple[str, ...]) -> None:
    """The others are named in the end."""
    house = House(*away)
    handlers, client = disks(house)
    if away:
        with pytest.raises(Refusal) as caught:
            await handlers.removed(client, MODEL, ("a", "b", "c"))
        assert (caught.value.status, caught.value.message) == (
            503,
            "; ".join(f"{name}: no answer." for name in away),
        )
    else:
        await handlers.removed(client, MODEL, ("a", "b", "c"))
    assert house.asked == ["a", "b", "c"]
    assert {name for name, row in house.folded.nodes.items() if row.installed} == set(away)


async def test_a_model_is_pulled_onto_all_that_can() -> None:
    """What failed comes last."""
    house, said = House("a"), list[dict[str, Any]]()
    handlers, client = disks(house)
    with pytest.raises(Refusal, match=r"a: no answer\."):
        async for line in handlers.pulled(client, NEW):
            said.append(line)
    assert [line["orion"]["node"] for line in said] == ["b", "c"]
    assert house.asked == ["a", "b", "c"]
