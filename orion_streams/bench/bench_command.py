"""`orion bench`: what the grid costs on this machine, beside a floor measured in the same run.

Only ratios count: a machine's speed drifts, so floor and grid take turns and each round has its ratio.
"""

from orion_streams.bench.bench_run import run

__all__ = ["run"]
