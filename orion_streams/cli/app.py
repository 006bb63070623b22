"""Every command of `orion` with its options. The module of a command is imported when it runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Literal

import typer

from orion_streams.cli import (
    alerts_commands,
    ask_commands,
    disk_commands,
    drain_commands,
    install_commands,
    key_commands,
    log_commands,
    look_commands,
    replay_commands,
)
from orion_streams.cli.options import (
    AsJson,
    At,
    CommonOptions,
    ConfigFile,
    FromFile,
    RedisUrl,
    do,
    do_in_checkout,
    examples_of,
)
from orion_streams.errors import EXIT_OK, EXIT_USAGE

app = typer.Typer(
    name="orion",
    help="Three Raspberry Pis with Ollama that feel like one inference endpoint, over Redis Streams.",
    epilog="Start with `orion demo`, or with `orion up --simulated` and, beside it, `orion ask`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(ask_commands.ask_commands)
app.add_typer(install_commands.install_commands)
app.add_typer(drain_commands.drain_commands)
app.add_typer(disk_commands.disk_commands)
app.add_typer(look_commands.look_commands)
app.add_typer(alerts_commands.alerts_commands, name="alerts", epilog=alerts_commands.EXAMPLES)
app.add_typer(key_commands.key_commands, name="key", epilog=key_commands.EXAMPLES)
app.add_typer(log_commands.log_commands, name="log", epilog=log_commands.EXAMPLES)
app.add_typer(replay_commands.replay_commands, name="replay", epilog=replay_commands.EXAMPLES)


def show_version(wanted: bool) -> None:
    """Print the version and exit, for `orion --version`."""
    if wanted:
        sys.stdout.write(f"orion-streams {version('orion-streams')}\n")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version.")
    ] = False,
) -> None:
    """Three Raspberry Pis with Ollama that feel like one inference endpoint, over Redis Streams."""


def main(words: Sequence[str]) -> int:
    """Parse and run one command and return its exit code; a usage error exits 2 and is explained."""
    try:
        answer: object = app(list(words), prog_name="orion", standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()  # a usage error of typer's
        return int(getattr(error, "exit_code", EXIT_USAGE))
    return answer if isinstance(answer, int) else EXIT_OK


def command(
    *examples: str, settings: dict[str, Any] | None = None
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a command with examples at the end of its help."""
    return app.command(epilog=examples_of(*examples), context_settings=settings)


@command("demo", "demo --json", "demo --real")
def demo(
    real: Annotated[bool, typer.Option("--real", help="Tokens of a real small model.")] = False,
    as_json: AsJson = False,
) -> int:
    """The whole story in under a minute, on simulated nodes: routing, heat, a crash, every answer."""
    return do("orion_streams.demo.demo_command", real=real, json=as_json)


@command("test", "test --all", "test tests/cli -k json", settings={"ignore_unknown_options": True})
def test(arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to pytest.")] = None) -> int:
    """Run the tests of this checkout: a quick selection, or --all of them."""
    return do("orion_streams.cli.test_command", arguments=arguments or [])


@command("up --simulated", "up --simulated --json", "up --roles router,gateway,agent:orion-master")
def up(
    simulated: Annotated[bool, typer.Option("--simulated", help="Three simulated nodes, to play.")] = False,
    roles: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="router, gateway, alerts, agent:NODE, with commas between."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the embedded server; 0: a free one.")] = 0,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Run a grid, or this machine's part of it, until Ctrl-C."""
    if simulated and (roles or redis or config):
        raise typer.BadParameter("--simulated brings its own server, roles and streams.toml")
    common = CommonOptions(as_json, redis, config)
    return do("orion_streams.cli.up_command", simulated=simulated, roles=roles, port=port, common=common)


for name, text in (
    ("router", "Run the router: it folds the log, decides and commits."),
    ("agent", "Run a node's agent: its health, and its work on Ollama."),
    ("gateway", "Run the gateway: Ollama's and OpenAI's API in front of the grid."),
):  # for the list of commands only: `cli.main` runs them before it imports this module
    app.command(name, help=text)(lambda: EXIT_USAGE)


def register_read(name: str, text: str) -> None:
    """Register a command that shows the grid, now or at an earlier moment."""

    def read(
        at: At = None,
        file: FromFile = None,
        as_json: AsJson = False,
        redis: RedisUrl = None,
        config: ConfigFile = None,
    ) -> int:
        common = CommonOptions(as_json, redis, config)
        return do("orion_streams.cli.read_commands", what=name, common=common, at=at, file=file)

    examples = (name, f"{name} --json", f"{name} --at 14:05", f"{name} --file incident.jsonl.gz --at 1234")
    read.__doc__ = text
    app.command(name, epilog=examples_of(*examples))(read)


register_read("nodes", "The node-state table: health, availability, slots, models in memory.")
register_read("models", "Which model is on which node, on disk and in memory.")
register_read("ps", "Open requests and where they are, and which models are in memory.")
register_read("plan", "Which models should live where, the reason for each, and the demand it is based on.")


@command("doctor", "doctor --json", "doctor --redis redis://orion-master:6379/0")
def doctor(as_json: AsJson = False, redis: RedisUrl = None, config: ConfigFile = None) -> int:
    """What is wrong with the grid, and the line that mends each; exit 3 if anything is."""
    return do("orion_streams.cli.doctor.doctor_command", common=CommonOptions(as_json, redis, config))


@command("check", "check streams.toml", "check /etc/orion/streams.toml --json")
def check(
    file: Annotated[
        str | None, typer.Argument(help="Default: $ORION_CONFIG, ./streams.toml, the package's.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """What is wrong with a streams.toml, before anything starts by it; exit 78 if anything is."""
    return do("orion_streams.cli.check_command", file=file, json=as_json)


@command(
    "acl",
    "acl --format aclfile --passwords /etc/orion/passwords",
    "acl --apply --passwords /etc/orion/passwords --disable-default",
    "acl orion-owner --apply --passwords /etc/orion/passwords",
)
def acl(
    users: Annotated[list[str] | None, typer.Argument(help="Only these. Default: all.")] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help="setuser (for redis-cli) or aclfile.")
    ] = "setuser",
    apply: Annotated[bool, typer.Option("--apply", help="Set the users on the server.")] = False,
    passwords: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="A file per user with its password; made where there is none."),
    ] = None,
    disable_default: Annotated[
        bool, typer.Option("--disable-default", help="With --apply: nobody gets in without a user.")
    ] = False,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """One user of Redis per role, with the rights that it needs and no other: print or apply them."""
    if form not in ("setuser", "aclfile"):
        raise typer.BadParameter("--format: expected setuser or aclfile")
    if apply and passwords is None:
        raise typer.BadParameter("--apply goes with --passwords DIR: without a password nobody can log in")
    if disable_default and not apply:
        raise typer.BadParameter("--disable-default goes with --apply")
    return do(
        "orion_streams.cli.acl_command",
        names=users or [],
        aclfile=form == "aclfile",
        apply=apply,
        passwords=passwords,
        disable_default=disable_default,
        common=CommonOptions(as_json, redis, config),
    )


@command(
    "bundle", "bundle /media/stick/orion", "bundle wheels --python 3.13 --extra embedded --extra fast",
    "bundle wheels --wheel orion_streams-0.4.0-py3-none-any.whl --json",
)  # fmt: skip
def bundle(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where the wheels go, or are already.")],
    python: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Of the Pi. Default: that of this Python.")
    ] = None,
    machine: Annotated[
        Literal["aarch64", "x86_64"], typer.Option(help="Of the Pi: a 64-bit Raspberry Pi OS is aarch64.")
    ] = "aarch64",
    extra: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="embedded (default), fast or real; may come again."),
    ] = None,
    wheel: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of orion-streams. Default: built from the checkout.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Put all that a Pi without internet needs into one folder, and say the line that installs from it."""
    if python is not None and not re.fullmatch(r"3\.1[1-9]", python):
        raise typer.BadParameter("--python: expected 3.11 or newer")
    return do(
        "orion_streams.cli.bundle_command",
        folder=folder,
        python=python,
        machine=machine,
        extras=["embedded"] if extra is None else extra,
        wheel=wheel,
        as_json=as_json,
    )


@command("bench", "bench --json", "bench gateway --quick")
def bench(
    what: Annotated[
        Literal["grid", "gateway"],
        typer.Argument(metavar="[WHAT]", help="The grid, against a bare relay, or its gateway."),
    ] = "grid",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds, which tell less.")] = False,
    as_json: AsJson = False,
) -> int:
    """Measure the grid, or its gateway, on this machine."""
    return do("orion_streams.bench.bench_run", gateway=what == "gateway", quick=quick, json=as_json)


@command(
    "simulate", "simulate --workload bursty --policy points --json", "simulate --compare --seeds 20",
    "simulate --faults --requests 20000", "simulate --faults --requests 17 --seed 4711 --only kill_agent",
)  # fmt: skip
def simulate(
    compare: Annotated[bool, typer.Option("--compare", help="Every policy on the same traces.")] = False,
    workload: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="steady, bursty, two-big, hot-afternoon or node-loss."),
    ] = None,
    regime: Annotated[
        str | None, typer.Option(metavar="NAME", help="decode-heavy (default) or load-heavy.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="ours, round-robin, least-connections, random, sticky-only, points or lower-bound.",
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Of one run. Default: 350.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, max=1_000, help="The house's three, then more workers.")] = 3,
    seed: Annotated[int, typer.Option(min=0, max=1_000_000_000, help="The same seed, the same run.")] = 1,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1_000, help="With --compare: so many, from --seed on. Default: 20."),
    ] = None,
    health_ms: Annotated[
        int | None,
        typer.Option(
            min=100, max=600_000, help="Between health entries. Default: 2000; 60000 in huge runs."
        ),
    ] = None,
    fifo: Annotated[
        bool, typer.Option("--fifo", help="Nodes serve in the order of arrival, which Ollama does not.")
    ] = False,
    faults: Annotated[
        bool,
        typer.Option("--faults", help="The whole cluster under faults. --requests defaults to 200000."),
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="LIST", help="With --faults: these kinds, or none, in every run.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """The real decisions on SIMULATED machines and a virtual clock: what a policy is worth, and what
    breaks under faults."""
    if faults:
        if compare or workload or regime or policy or health_ms or fifo or nodes != 3 or seeds:
            raise typer.BadParameter("--faults goes with --requests, --seed, --only and --json")
        return do_in_checkout(
            "simulate --faults",
            "tests.cluster.faults_command",
            requests=requests,
            seed=seed,
            only=only,
            as_json=as_json,
        )
    if only is not None:
        raise typer.BadParameter("--only goes with --faults")
    if seeds is not None and not compare:
        raise typer.BadParameter("--seeds goes with --compare; a single run takes --seed")
    return do(
        "orion_streams.cli.simulate_command",
        compare=compare,
        workload=workload,
        regime=regime,
        policy=policy,
        requests=requests,
        nodes=nodes,
        seed=seed,
        seeds=seeds or 20,
        health_ms=health_ms,
        fifo=fifo,
        as_json=as_json,
    )


@command(
    "chaos",
    "chaos --minutes 10 --seed 7 --json",
    "chaos --server redis --fsync always --only kill_server",
    "chaos --soak 1",
)
def chaos(
    minutes: Annotated[float, typer.Option(min=0.05, max=1_440, help="How long things are broken.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=1_000_000_000, help="Of what is broken when.")] = 1,
    server: Annotated[str, typer.Option(metavar="NAME", help="valkey, redis, or any of them.")] = "any",
    fsync: Annotated[
        str, typer.Option(metavar="HOW", help="When the server's file is written: everysec, always or any.")
    ] = "any",
    only: Annotated[
        list[str] | None, typer.Option(metavar="FAULT", help="Nothing else; may come again.")
    ] = None,
    log: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to write what the processes say.")
    ] = None,
    soak: Annotated[
        float | None,
        typer.Option(min=0.07, max=168, metavar="HOURS", help="Small faults, and whether anything grows."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Kill, cut, hang and fill a grid of real processes, and see whether every promise holds."""
    return do_in_checkout(
        "chaos",
        "tests.chaos.chaos_command",
        minutes=minutes,
        seed=seed,
        server=server,
        fsync=fsync,
        only=only or [],
        log=log,
        soak_hours=soak or 0.0,
        json=as_json,
    )
