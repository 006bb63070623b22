"""`orion ask`: send a request and show its answer as it is generated."""

from __future__ import annotations

import sys
from pathlib import Path

from orion_streams.cli import grid_discovery
from orion_streams.cli.answer_view import AnswerView, dim
from orion_streams.cli.interruptible import Interrupted, answered, client_of, sign
from orion_streams.cli.options import CommonOptions, Wishes
from orion_streams.cli.outcome import EXIT_INTERRUPTED, tell, write_result
from orion_streams.cli.request_options import (
    asking_client,
    fields_of,
    from_stdin,
    image_of,
    model_to_ask,
)
from orion_streams.environment import command
from orion_streams.errors import ConfigError


async def run(
    *, prompt: str, stream: bool, images: tuple[str, ...], wishes: Wishes, common: CommonOptions
) -> int:
    """Ask, print the answer, and say which node made it. Raises RequestError, BackendError, ConfigError."""
    config = grid_discovery.find(common.redis_url, common.config_path)
    name = asking_client(config, wishes.client)
    fields = fields_of(wishes)
    if wishes.system is not None:
        fields["system"] = wishes.system
    if images:
        fields["images"] = [image_of(Path(each)) for each in images]
    text = from_stdin(sys.stdin.read) if prompt == "-" else prompt
    if not text.strip() and not images:
        raise ConfigError(f'the question is empty: {command()} ask "Why is the sky blue?"')
    model = await model_to_ask(config, wishes.model)
    content = {"kind": "generate", "model": model, "prompt": text, "stream": stream}
    async with client_of(config, name) as client:
        try:
            answer = await answered(client, content, fields, AnswerView(thoughts=bool(wishes.think)))
        except Interrupted as end:
            tell(dim(str(end)))
            return EXIT_INTERRUPTED
    if not stream:
        write_result(answer, answer.text, common.as_json)
    sign(answer)
    return 0
