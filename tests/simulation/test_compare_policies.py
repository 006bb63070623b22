"""What is made of many runs, and how `orion simulate` shows it."""

from __future__ import annotations

import msgspec
import pytest

from orion_streams.cli.app import main
from orion_streams.errors import EXIT_OK, EXIT_USAGE
from orion_streams.simulation.baseline_policies import POLICIES
from orion_streams.simulation.compare_policies import best_baseline, goals, medians, run_all, trials
from orion_streams.simulation.run_workload import Trial
from orion_streams.simulation.simulation_results import Result

KEYS = [
    "regime", "workload", "policy", "seed", "p50_ms", "p95_ms", "max_ms", "cold_loads", "hot_ms",
    "rejected",
]  # fmt: skip


def result(policy: str, p95_ms: int, *, seed: int = 1, hot_ms: int = 0, max_ms: int = 100) -> Result:
    """A made-up outcome."""
    return Result(
        regime="load-heavy",
        workload="steady",
        policy=policy,
        seed=seed,
        p50_ms=10,
        p95_ms=p95_ms,
        max_ms=max_ms,
        cold_loads=1,
        hot_ms=hot_ms,
        rejected=0,
    )


def judged(ours: Result, *others: Result) -> dict[str, bool]:
    """Which goals ours meets; baselines that are not given are hopeless."""
    rows = {name: result(name, 10_000, hot_ms=10_000, max_ms=10_000) for name in POLICIES}
    rows |= {each.policy: each for each in (ours, *others)}
    found = medians(list(rows.values()))["load-heavy", "steady"]
    return {each.name: each.is_met for each in goals("load-heavy", found)}


def test_goals_are_met_up_to_their_bound() -> None:
    """1.02 times the best baseline's p95, 1.1 its hot time and longest wait pass; a ms more fails."""
    best = result("points", 1_000, hot_ms=100, max_ms=1_000)
    met = judged(result("ours", 1_020, hot_ms=110, max_ms=1_100), best)
    missed = judged(result("ours", 1_021, hot_ms=111, max_ms=1_101), best)
    assert [met[goal] for goal in ("p95", "hot", "longest")] == [True] * 3
    assert [missed[goal] for goal in ("p95", "hot", "longest")] == [False] * 3


def test_the_bound_is_no_baseline() -> None:
    """However good the lower bound is, ours is compared with what somebody could have picked."""
    rows = [result(name, 500) for name in POLICIES if name not in ("lower-bound", "random")]
    rows += [result("lower-bound", 1), result("random", 400)]
    assert best_baseline(medians(rows)["load-heavy", "steady"]) == "random"


def test_the_median_of_the_seeds_counts() -> None:
    """One bad seed of three moves nothing."""
    rows = [result("ours", p95_ms, seed=n) for n, p95_ms in enumerate((100, 9_000, 200))]
    assert medians(rows)["load-heavy", "steady"]["ours"].p95_ms == 200


def test_several_processes_give_the_same_results_in_the_same_order() -> None:
    """Two cores find what one finds."""
    like = Trial("load-heavy", "steady", "ours", 1, requests=10)
    work = trials(like, ["load-heavy"], ["steady"], [1, 2])
    assert list(run_all(work, 2)) == list(run_all(work, 1))
    assert [(each.policy, each.seed) for each in work[:3]] == [("ours", 1), ("ours", 2), ("round-robin", 1)]


def test_json_is_one_line_with_exactly_these_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """A single run is a list of one, in the order of the contract."""
    assert main(["simulate", "--requests", "10", "--json"]) == EXIT_OK
    out = capsys.readouterr().out
    rows = msgspec.json.decode(out)
    assert out.count("\n") == 1 and len(rows) == 1 and list(rows[0]) == KEYS
    assert (rows[0]["workload"], rows[0]["policy"], rows[0]["rejected"]) == ("steady", "ours", 0)


def test_a_comparison_covers_every_policy(capsys: pytest.CaptureFixture[str]) -> None:
    """Narrowed to one workload it is each policy on that, and the table says SIMULATED."""
    words = ["simulate", "--compare", "--workload", "steady", "--regime", "load-heavy", "--requests", "10"]
    assert main([*words, "--seeds", "1", "--json"]) == EXIT_OK
    rows = msgspec.json.decode(capsys.readouterr().out)
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert main([*words, "--seeds", "1"]) == EXIT_OK
    shown = capsys.readouterr().out
    assert shown.startswith("SIMULATED") and "lower-bound" in shown


def test_a_single_run_says_that_it_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody takes the figures for measured ones."""
    assert main(["simulate", "--requests", "10"]) == EXIT_OK
    assert capsys.readouterr().out.startswith("SIMULATED: steady, decode-heavy, policy ours")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workload", "calm"], "hot-afternoon"),
        (["--regime", "heavy"], "load-heavy"),
        (["--policy", "best"], "lower-bound"),
        (["--requests", "0"], "or equal to 1"),
        (["--nodes", "1001"], "or equal to 1000"),
        (["--seeds", "0"], "or equal to 1"),
        (["--health-ms", "5"], "or equal to 100"),
        (["--compare", "--policy", "ours"], "every policy"),
    ],
)
def test_usage_errors_say_what_there_is(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown name lists the known ones; a number out of range its range."""
    assert main(["simulate", *words]) == EXIT_USAGE
    assert said in capsys.readouterr().err
