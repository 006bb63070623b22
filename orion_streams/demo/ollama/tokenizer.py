"""The text of the synthetic engine: a tokenizer, and answers drawn from a seed.

The tokenizer splits as Gemma's does on plain English: a word with the space before it, and every
digit, sign and further space by itself. So the token counts of short prompts come out as recorded.
"""

import hashlib
import random
import re
from collections.abc import Sequence

import msgspec

from orion_streams.demo.ollama.engine import DoneReason
from orion_streams.gateway.refusal import JsonObject

_TOKEN = re.compile(r" ?[^\W\d_]{1,12}|\d|\s|[^\w\s]|_")
_VOCABULARY_SIZE = 262_144
# fmt: off
_WORDS = (
    "the", "a", "one", "this", "each", "some", "light", "water", "metal", "paper", "river",
    "garden", "window", "signal", "engine", "table", "letter", "number", "system", "morning",
    "winter", "voice", "house", "road", "wheel", "answer", "question", "moves", "holds",
    "keeps", "turns", "brings", "shows", "leaves", "opens", "carries", "follows", "reaches",
    "joins", "slowly", "clearly", "often", "together", "again", "almost", "early", "near",
    "under", "over", "between", "without", "small", "large", "warm", "cold", "bright", "quiet",
    "open", "heavy", "simple", "steady", "and", "or", "but", "because", "while",
)
# fmt: on
_SENTENCE_WORDS = (5, 12)
_ANSWER_TOKENS = (64, 192)


class Cut(msgspec.Struct, frozen=True):
    """An answer: the visible text of each token, its end, and its length in `tokens`, which can exceed the
    pieces: a stop sequence is generated but not shown."""

    pieces: tuple[str, ...]
    reason: DoneReason
    tokens: int


def seeded(*parts: object) -> random.Random:
    """Return a generator that depends on the parts only, equal in every process."""
    digest = hashlib.blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=8).digest()
    # Reproducible text is the aim here, not secrecy.
    return random.Random(digest)  # noqa: S311


def tokenize(text: str) -> list[str]:
    return _TOKEN.findall(text)


def token_id(token: str) -> int:
    digest = hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % _VOCABULARY_SIZE


def prose(rng: random.Random) -> list[str]:
    """Draw the tokens of a whole answer: a few sentences."""
    length = rng.randrange(*_ANSWER_TOKENS)
    tokens: list[str] = []
    while len(tokens) < length:
        tokens += _sentence(rng, first=not tokens)
    return tokens


def _sentence(rng: random.Random, *, first: bool) -> list[str]:
    words = rng.choices(_WORDS, k=rng.randint(*_SENTENCE_WORDS))
    opening = words[0].capitalize() if first else " " + words[0].capitalize()
    return [opening, *(" " + word for word in words[1:]), "."]


def cut(tokens: Sequence[str], stops: Sequence[str], limit: int | None) -> Cut:
    """End an answer at its first stop sequence, after `limit` tokens, or by itself."""
    whole = tokens if limit is None else tokens[:limit]
    text = "".join(whole)
    stop_at = min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=None)
    if stop_at is None:
        return Cut(tuple(whole), "stop" if len(whole) != limit else "length", len(whole))
    stop = next(s for s in stops if s and text.startswith(s, stop_at))
    return _cut_at(whole, stop_at, stop_at + len(stop))


def _cut_at(tokens: Sequence[str], visible: int, made: int) -> Cut:
    """Show the first `visible` characters of the tokens up to character `made`."""
    pieces: list[str] = []
    position = count = 0
    for token in tokens:
        if position >= made:
            break
        count += 1
        shown = token[: max(0, visible - position)]
        if shown:
            pieces.append(shown)
        position += len(token)
    return Cut(tuple(pieces), "stop", count)


def logprob(rng: random.Random, token: str, top: int) -> JsonObject:
    """Draw the log probability of a token, with the `top` likeliest ones."""
    chosen = _entry(token, -rng.uniform(0.01, 1.5))
    if not top:
        return chosen
    others = [" " + word for word in rng.sample(_WORDS, top)]
    rest = sorted((-rng.uniform(1.5, 9.0) for _ in others[1:]), reverse=True)
    ranked = [chosen, *(_entry(t, p) for t, p in zip(others, rest, strict=False))]
    return {**chosen, "top_logprobs": ranked}


def _entry(token: str, value: float) -> JsonObject:
    return {"token": token, "logprob": value, "bytes": list(token.encode(errors="replace"))}
