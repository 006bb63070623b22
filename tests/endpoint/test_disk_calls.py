"""`/api/pull` and `/api/delete` of a gateway: by hand, by the `ollama` package, and on the command line.

The grid is one of processes; its Ollamas and their registry are simulated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from msgspec import structs

from orion_streams.agents.disk_worker import DISK_UNKNOWN
from orion_streams.demo.ollama import ModelSpec
from orion_streams.demo.simulated_grid import SimulatedGrid, SimulatedNode
from orion_streams.model.state import Grid
from tests.cli.run_cli import run
from tests.endpoint.running_endpoint import EMBEDDER, INSTANT, PLAIN, SKILLED, RunningEndpoint

NEW, SLOW = ModelSpec(name="new:1b", size_mb=800), ModelSpec(name="slow:7b", size_mb=100_000)
REGISTRY = ["registry.ollama.ai"]
SPEC = structs.replace(INSTANT, registry=(NEW, SLOW), net_mb_per_s=4_000.0)
"""A pull of NEW takes 0.2 s, one of SLOW 25 s."""
LIMITS = {"health_ms": 100, "inventory_ms": 200, "pull_margin_mb": 0}


def house(pull_from: list[str], operator: bool, models: dict[str, Any] | None = None) -> RunningEndpoint:
    """A grid whose gateway is an operator, or none."""
    settings: dict[str, Any] = {
        "": {"pull_from": pull_from}, "limits": LIMITS, "clients.gateway": {"operator": operator},
        "clients.cli": {"operator": True}, "clients.brain": {}, **(models or {}),
    }  # fmt: skip
    node = SimulatedNode(SPEC.name, "everything", SPEC)
    return RunningEndpoint(grid=SimulatedGrid([node], settings=settings, gateway=True))


@pytest.fixture(scope="module")
def opened() -> Iterator[RunningEndpoint]:
    """Whoever is on the gateway's machine may pull, from one registry."""
    pinned = {f'models."{SKILLED.name}"': {"resident_on": [SPEC.name]}}
    with house(REGISTRY, True, pinned) as running:
        yield running


@pytest.fixture
def client(opened: RunningEndpoint) -> Iterator[ollama.Client]:
    """The blocking client."""
    with ollama.Client(host=opened.url) as found:
        yield found


def is_there(name: str) -> Any:
    """Whether the node has the model."""
    return lambda grid: name in grid.nodes[SPEC.name].installed


def is_gone(name: str) -> Any:
    """Whether the node does not."""
    return lambda grid: name not in grid.nodes[SPEC.name].installed and grid.nodes[SPEC.name].disk is None


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines of a stream."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_ollamas_client_pulls_and_deletes(opened: RunningEndpoint, client: ollama.Client) -> None:
    """Progress comes part by part, the end once; then the model answers, until it is deleted."""
    steps = list(client.pull(NEW.name, stream=True))
    said = [step.status for step in steps]
    assert said[:3] == ["ordered", DISK_UNKNOWN, "pulling manifest"]
    assert said[-1] == "success"
    assert said.count("success") == 1
    assert max(step.completed or 0 for step in steps) == NEW.size_bytes
    assert {step.total for step in steps if step.digest == f"sha256:{NEW.blob}"} == {NEW.size_bytes}
    assert client.generate(NEW.name, "Why?").response
    assert client.pull(NEW.name).status == "success"  # once more: a newer one is looked for
    assert client.delete(NEW.name).status == "success"
    with pytest.raises(ollama.ResponseError) as caught:
        client.delete(NEW.name)
    assert caught.value.status_code == 404


def test_refusals_are_statuses(opened: RunningEndpoint) -> None:
    """Before the first line; what fails later is the last line."""
    with httpx.Client(base_url=opened.url, timeout=30) as http:

        def pulled(**body: Any) -> httpx.Response:
            return http.post("/api/pull", json=body)

        assert pulled().status_code == 400
        assert pulled(model=NEW.name, insecure=True).status_code == 400
        elsewhere = pulled(model="hf.co/some/model")
        assert elsewhere.status_code == 403
        assert "hf.co is not in pull_from" in elsewhere.json()["error"]
        missing = lines(pulled(model="nothing:1b"))
        assert "file does not exist" in missing[-1]["error"]
        whole = pulled(model="nothing:1b", stream=False)
        assert (whole.status_code, "file does not exist" in whole.json()["error"]) == (502, True)
        assert pulled(model=PLAIN.name, stream=False).json() == {"status": "success"}
        pinned = http.request("DELETE", "/api/delete", json={"model": SKILLED.name})
        assert pinned.status_code == 409
        assert "is pinned to pi" in pinned.json()["error"]
        assert http.get("/api/pull").status_code == 405
        assert http.post("/api/delete", json={"model": PLAIN.name}).status_code == 405


def test_who_goes_away_cancels_the_pull(opened: RunningEndpoint) -> None:
    """Meanwhile a second pull is refused; afterwards the node is free."""
    with httpx.Client(base_url=opened.url, timeout=30) as http:
        with http.stream("POST", "/api/pull", json={"model": SLOW.name}) as answer:
            rows = answer.iter_lines()  # let go of, it would close the connection
            assert any("completed" in row for row in rows)
            other = http.post("/api/pull", json={"model": NEW.name})
            assert other.status_code == 409
            assert f"pi pulls {SLOW.name} just now" in other.json()["error"]
        opened.when(is_free, "it is cancelled")
        assert is_free(opened.when(is_gone(SLOW.name), "it was not pulled"))


def test_a_gateway_that_is_killed_cancels_its_pull_when_it_is_back() -> None:
    """Nobody waits for it any more."""
    with house(REGISTRY, True) as running:
        gateway = running.grid.gateway
        assert gateway is not None
        url, body = f"{running.url}/api/pull", {"model": SLOW.name}
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            rows = answer.iter_lines()
            assert any("completed" in row for row in rows)
            running.run(gateway.kill())
            with pytest.raises(httpx.HTTPError):
                list(rows)
        assert not is_free(running.when(lambda _: True, "it goes on"))
        running.run(gateway.start(30))
        running.when(is_free, "it is cancelled")
        assert is_gone(SLOW.name)(running.when(is_free, "it was not pulled"))


def is_free(grid: Grid) -> bool:
    """Whether the node does nothing with its disk."""
    return grid.nodes[SPEC.name].disk is None


def test_a_registry_that_is_away_is_told_at_once(opened: RunningEndpoint, client: ollama.Client) -> None:
    """In Ollama's words, which its client raises."""
    opened.run(opened.grid.fault(SPEC.name, "pull_offline"))
    with pytest.raises(ollama.ResponseError, match="no such host"):
        list(client.pull(NEW.name, stream=True))


def test_a_person_pulls_and_removes(opened: RunningEndpoint, tmp_path: Path) -> None:
    """Exit codes, one line a node, and data on demand."""
    words = ("--config", str(opened.grid.config_path), "--redis", opened.grid.redis_url)
    code, out, err = run(tmp_path, "pull", NEW.name, *words)
    assert (code, out, err) == (0, f"pi: {NEW.name} is there\n", "")
    opened.when(is_there(NEW.name), "it is in the inventory")
    code, out, err = run(tmp_path, "pull", NEW.name, *words)
    assert (code, out) == (0, "")
    assert f"no node is known to lack {NEW.name}" in err
    for some, rm in (((), f"orion rm {NEW.name} --yes"), (("--node", "pi"), "--node pi --yes")):
        code, out, err = run(tmp_path, "rm", NEW.name, *some, *words)
        assert (code, out) == (1, "")
        assert err.strip().endswith(rm), "the last copy stays, and it is said how it goes all the same"
        assert is_there(NEW.name)(opened.when(lambda _: True, "now"))
    code, out, err = run(tmp_path, "rm", NEW.name, "--yes", "--json", *words)
    assert (code, json.loads(out)) == (0, [{"node": "pi", "model": NEW.name}])
    opened.when(is_gone(NEW.name), "it is gone")
    code, out, err = run(tmp_path, "rm", NEW.name, *words)
    assert (code, out, err) == (1, "", f"orion: no node has {NEW.name}\n")
    code, out, err = run(tmp_path, "pull", "nothing:1b", "--node", "pi", "--json", *words)
    assert code == 1
    assert json.loads(out)[0]["code"] == "registry_lacks"
    code, out, err = run(tmp_path, "pull", NEW.name, "--client", "brain", *words)
    assert code == 1
    assert "not_allowed" in err


def test_nothing_is_pulled_by_default_and_only_by_operators() -> None:
    """Two grids as they are without a word in streams.toml: one sentence says what to set."""
    for pull_from, operator, why in (
        ([], True, 'set pull_from = ["registry.ollama.ai"]'),
        (REGISTRY, False, "only an operator changes which models there are"),
    ):
        with house(pull_from, operator) as running, httpx.Client(base_url=running.url, timeout=30) as http:
            for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
                answer = http.request(method, path, json={"model": EMBEDDER.name})
                assert answer.status_code == 403
                assert answer.json().keys() == {"error"}
                assert why in answer.json()["error"]
            assert is_there(EMBEDDER.name)(running.when(lambda _: True, "now"))
