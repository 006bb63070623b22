"""`orion router`, `orion agent`, `orion gateway`, `orion alerts run`: the processes of a grid, in the
foreground until a signal."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence

from orion_streams.cli import grid_discovery
from orion_streams.cli.outcome import outcome, tell
from orion_streams.config import Config
from orion_streams.errors import EXIT_BAD_CONFIG
from orion_streams.runtime.connection import connect
from orion_streams.runtime.server_check import wait_for_server
from orion_streams.runtime.service_notify import ServiceManager

ROUTER = "Run the router: it folds the log, decides and commits. A second one only follows."
AGENT = "Run a node's agent: it reports the node's health and runs its work on the node's Ollama."
ROUTER_EXAMPLES = """\
examples:
  orion router --redis redis://orion-master:6379/0
  orion router --config /etc/orion/streams.toml
"""
GATEWAY = (
    "Run the gateway: what speaks Ollama's or OpenAI's API asks the grid through it. It listens where "
    "streams.toml says (gateway.listen); from other machines a key is needed (orion key add)."
)
GATEWAY_EXAMPLES = """\
examples:
  orion gateway --redis redis://orion-master:6379/0
  curl http://127.0.0.1:11435/api/tags
"""
ALERTS = (
    "Tell people what is wrong, and when it is over: by the rules of [[alerts]], each target of "
    "[alerts_to]. "
    "One process sends, on the router's machine; it notes what it has told (alerts_file)."
)
ALERTS_EXAMPLES = """\
examples:
  orion alerts run --redis redis://orion-master:6379/0
  orion alerts test
"""
AGENT_EXAMPLES = """\
examples:
  orion agent --node orion-worker --redis redis://orion-master:6379/0
  ORION_REDIS_URL=redis://orion-master:6379/0 orion agent --node orion-edge
"""
HOLD_S = 60.0
ENDS = "exit code {code}, once a minute: journalctl -u orion-{role} says why"


ROLES = (
    ("router", ROUTER, ROUTER_EXAMPLES),
    ("agent", AGENT, AGENT_EXAMPLES),
    ("gateway", GATEWAY, GATEWAY_EXAMPLES),
    ("alerts run", ALERTS, ALERTS_EXAMPLES),
)


def main(words: Sequence[str]) -> int:
    """Run one of the commands; `words` begins with its name. A service that ends for a reason which only a
    person can mend does so a minute later: it is started anew for ever, as the reason may be another
    machine's (the server's users, a newer router)."""
    options = parser().parse_args(words)
    code = outcome(lambda: run(options))
    if code == EXIT_BAD_CONFIG:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        asyncio.run(ServiceManager().hold(ENDS.format(code=code, role=words[0].split()[0]), HOLD_S))
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="orion")
    commands = top.add_subparsers(dest="command", required=True)
    layout = argparse.RawDescriptionHelpFormatter
    for name, text, examples in ROLES:
        command = commands.add_parser(
            name, help=text, description=text, epilog=examples, formatter_class=layout
        )
        if name == "agent":
            command.add_argument("--node", required=True, help="the node's name in streams.toml")
        if name == "gateway":
            command.add_argument("--insecure", action="store_true", help="nobody needs a key")
            command.add_argument(
                "--port", type=int, help="another port than in streams.toml; 0: a free one, for tests"
            )
            command.add_argument("--json", action="store_true", help="say the URL as JSON")
        command.add_argument("--redis", metavar="URL", help="the grid's Redis or Valkey")
        command.add_argument("--config", metavar="FILE", help="streams.toml to use")
    return top


def run(options: argparse.Namespace) -> int:
    """Check the server, then run the role. Raises ConfigError, and BackendError if no grid is named."""
    config = grid_discovery.find(options.redis, options.config)
    if options.command == "gateway":
        from orion_streams.agents import gateway_process  # noqa: PLC0415 - without Faust

        return gateway_process.run(config, options.insecure, options.port, options.json)
    if options.command == "alerts run":
        from orion_streams.agents import alert_process  # noqa: PLC0415 - without Faust

        return alert_process.run(config)
    from orion_streams.agents import apps  # noqa: PLC0415 - Faust: not for a command that fails earlier

    if options.command == "agent":
        config.node(options.node)
        return apps.run_agent(config, options.node)
    asyncio.run(check(config))
    return apps.run_router(config)


async def check(config: Config) -> None:
    """Wait for the server. Raises ConfigError if it would lose the grid."""
    redis, manager = connect(config.redis.url), ServiceManager()
    try:
        async with manager.fed():
            await wait_for_server(redis, manager.waiting(tell))
    finally:
        await redis.aclose()
