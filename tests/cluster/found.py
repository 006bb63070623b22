"""What the checks of a run found."""

from __future__ import annotations

from msgspec import Struct, field


class Found(Struct):
    """Counts of a run, and for each invariant that broke what broke it first."""

    answered: int = 0
    kinds: dict[str, int] = {}
    lost: int = 0
    duplicate_replies: int = 0
    duplicate_dispatches: int = 0
    repeated_generations: int = 0
    log_gaps: int = 0
    diverged: int = 0
    broken: dict[str, str] = field(default_factory=dict)

    def breaks(self, invariant: str, what: str) -> None:
        """Note what broke an invariant first."""
        self.broken.setdefault(invariant, what)
