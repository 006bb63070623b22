"""The npm packages `ollama` and `openai`, unchanged, where Node is."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.endpoint.client_requests import BOTH, HELLO, PNG, SCHEMA, TOOLS
from tests.endpoint.running_endpoint import RunningEndpoint
from tests.helpers import WAIT_S
from tests.needs import NODE, NPM

PROGRAMS = Path(__file__).parent / "npm"
ASKED = {
    "hello": HELLO,
    "both": [{"role": "user", "content": BOTH}],
    "tools": TOOLS,
    "schema": SCHEMA,
    "png": base64.b64encode(PNG).decode(),
}
pytestmark = pytest.mark.everything(NODE is not None, NPM is not None)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs and the packages of package-lock.json."""
    folder = tmp_path_factory.mktemp("npm")
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    (folder / "asked.json").write_text(json.dumps(ASKED))
    words = (str(NPM), "ci", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts")
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("package", ["ollama", "openai"])
def test_a_package_gets_all_it_asks_for(programs: Path, endpoint: RunningEndpoint, package: str) -> None:
    """Chat, tools, thoughts, a picture, a schema, vectors, lists and errors."""
    words = (str(NODE), f"{package}.mjs", endpoint.url)
    done = subprocess.run(words, cwd=programs, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


@pytest.mark.parametrize("package", ["ollama", "openai"])
def test_a_client_that_aborts_cancels_its_request(
    programs: Path, endpoint: RunningEndpoint, package: str
) -> None:
    """In the middle of a stream."""
    endpoint.hang()
    words = (str(NODE), f"{package}.mjs", endpoint.url, "leave")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=programs, **pipes) as node:  # type: ignore[call-overload]
        assert node.stdout.readline().strip()
        key = endpoint.the_open_one()
        node.communicate("go\n", timeout=WAIT_S)
    endpoint.is_cancelled(key)
