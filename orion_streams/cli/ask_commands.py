"""`orion ask` and `orion chat` with their options."""

from __future__ import annotations

from typing import Annotated

import typer

from orion_streams.cli.options import (
    AsJson,
    CommonOptions,
    ConfigFile,
    RedisUrl,
    Wishes,
    do,
    examples_of,
)

ask_commands = typer.Typer()
Model = Annotated[str | None, typer.Option(help="Ollama's name. Default: one installed.")]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")]
Session = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of a conversation: it goes where its prefix is cached.")
]
Priority = Annotated[int, typer.Option(min=-9, max=9, help="Higher goes first.")]
Tier = Annotated[int, typer.Option(min=0, max=9, help="Preferred tier; 0: no wish.")]
AsClient = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whom the grid hears: [clients.NAME]. Default: the user's own, cli."),
]
RunnerOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="One of Ollama's options; may come again."),
]
Form = Annotated[
    str | None, typer.Option("--format", metavar="FORM", help="json, or a file with a JSON schema.")
]
Think = Annotated[
    bool | None, typer.Option("--think/--no-think", help="Let it think, and show that, or not.")
]
Timeout = Annotated[float, typer.Option(min=0.001, max=86_400, help="Deadline in seconds.")]


@ask_commands.command(
    epilog=examples_of(
        'ask "Why is the sky blue?"', 'ask "Why?" --model gemma3:270m --tier 2 --option temperature=0',
        'ask "What is this?" --model gemma3:4b --image cat.jpg', 'ask "Colours." --format json --json',
    )
)  # fmt: skip
def ask(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from stdin.")],
    model: Model = None,
    tier: Tier = 0,
    system: System = None,
    session: Session = None,
    priority: Priority = 0,
    client: AsClient = None,
    option: RunnerOption = None,
    form: Form = None,
    image: Annotated[list[str] | None, typer.Option(metavar="FILE", help="To look at.")] = None,
    think: Think = None,
    timeout: Timeout = 600.0,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Tokens as they come.")] = True,
    as_json: AsJson = False,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Ask the grid, and watch the answer come. Ctrl-C cancels it in the grid."""
    options = tuple(option or ())
    return do(
        "orion_streams.cli.ask_command",
        prompt=prompt,
        stream=stream and not as_json,
        images=tuple(image or ()),
        wishes=Wishes(model, system, session, tier, priority, client, options, form, think, timeout),
        common=CommonOptions(as_json, redis, config),
    )


@ask_commands.command(
    epilog=examples_of("chat", 'chat --model llama3.2:3b --system "Be brief."', "chat < questions.txt")
)
def chat(
    model: Model = None,
    tier: Tier = 0,
    system: System = None,
    session: Session = None,
    priority: Priority = 0,
    client: AsClient = None,
    option: RunnerOption = None,
    form: Form = None,
    think: Think = None,
    timeout: Timeout = 600.0,
    redis: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Talk with a model; /help lists the commands. Ctrl-C cancels an answer in the grid."""
    options = tuple(option or ())
    return do(
        "orion_streams.cli.chat_command",
        wishes=Wishes(model, system, session, tier, priority, client, options, form, think, timeout),
        common=CommonOptions(as_json=False, redis_url=redis, config_path=config),
    )
