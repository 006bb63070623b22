"""From a run that broke an invariant to a smaller one that breaks the same: fewer faults, fewer
requests."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from tests.cluster.run_cluster import Job

MOST_RUNS = 150
"""So many runs may it take to shrink one."""

Breaks = Callable[[Job], bool]


class Shrinker:
    """Finds a smaller run that breaks the same invariant, as `breaks` says, within MOST_RUNS runs."""

    def __init__(self, breaks: Breaks) -> None:
        self._breaks = breaks
        self.runs = 0

    def shrink(self, job: Job) -> Job:
        """Return the smallest run that was found."""
        while True:
            smaller = self._fewer_requests(self._fewer_faults(job))
            if smaller == job or self.runs >= MOST_RUNS:
                return smaller
            job = smaller

    def _still(self, job: Job) -> bool:
        self.runs += 1
        return self.runs <= MOST_RUNS and self._breaks(job)

    def _fewer_faults(self, job: Job) -> Job:
        """Leave out half of the faults at once, then one by one."""
        kinds = sorted(job.faults)
        for part in (kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]):
            half = replace(job, faults=frozenset(part))
            if len(kinds) > 1 and self._still(half):
                return self._fewer_faults(half)
        for kind in kinds:
            without = replace(job, faults=job.faults - {kind})
            if self._still(without):
                job = without
        return job

    def _fewer_requests(self, job: Job) -> Job:
        """Halve the requests as long as that breaks, then try a quarter less, a tenth less, one less."""
        for share in (2, 4, 10, 1_000_000):
            while job.requests > 1:
                fewer = replace(job, requests=job.requests - max(job.requests // share, 1))
                if not self._still(fewer):
                    break
                job = fewer
        return job
