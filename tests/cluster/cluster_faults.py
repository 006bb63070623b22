"""What may go wrong, how often, and which of it goes wrong in a run."""

from __future__ import annotations

from random import Random

from msgspec import Struct


class Rates(Struct, frozen=True):
    """How often each fault comes: of so many messages or requests one in `1 / rate`, or, of those that come
    by themselves, one every so many ms on average."""

    # of each message to the server
    lost_write: float = 0.01
    lost_answer: float = 0.01
    duplicate_write: float = 0.02
    delay: float = 0.02
    # of each request
    cancel: float = 0.05
    short_deadline: float = 0.05
    malformed: float = 0.03
    unknown_model: float = 0.02
    late_resend: float = 0.05
    refused: float = 0.02
    # of each health entry
    malformed_health: float = 0.05
    # by themselves
    kill_router: int = 3_000
    cut_router: int = 4_000
    kill_agent: int = 4_000
    cut_agent: int = 5_000
    cut_client: int = 4_000
    slow_reader: int = 4_000
    clock_jump: int = 3_000
    server_away: int = 6_000
    lost_tail: int = 5_000
    deleted_stream: int = 8_000
    deleted_body: int = 2_000
    ollama_error: int = 4_000
    ollama_hang: int = 6_000
    ollama_away: int = 4_000
    ollama_busy: int = 4_000
    ollama_cut: int = 4_000
    heat: int = 5_000
    full_memory: int = 5_000
    model_removed: int = 5_000


RATES = Rates()
STANDING = ("two_routers", "trimming")
"""Faults that hold for a whole run."""
BY_THEMSELVES = tuple(name for name in Rates.__struct_fields__ if isinstance(getattr(RATES, name), int))
KINDS = (*Rates.__struct_fields__, *STANDING)


def swarm(seed: int) -> frozenset[str]:
    """Choose the faults of the run with this seed: a random subset, since many at once hide each other."""
    rng = Random(f"swarm {seed}")
    share = rng.choice((0.0, 0.1, 0.2, 0.3, 0.5, 0.8))
    return frozenset(kind for kind in KINDS if rng.random() < share)
