"""The soak's judgement: what is flat passes however noisy it is, what leaks is found."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.soak_samples import Series, add_disk, add_process, rising
from tests.chaos.soak_slope import LEAST_SAMPLES, Sample, trend

COUNT, EVERY_S = 240, 5.0
TOLERANCE = 3.0

LEAK = """
import sys
kept = []
for line in sys.stdin:
    {step}
    print("done", flush=True)
"""
STEPS = {
    "rss_mb": "kept.append(bytearray(b'x' * 200_000))",
    "descriptors": "kept.append(open(__import__('os').devnull))",
    "nothing": "kept[:] = [bytearray(b'x' * 200_000 * (len(line) % 5))]",
}


def samples(value: Callable[[int], float]) -> list[Sample]:
    """A series of COUNT samples."""
    return [(n * EVERY_S, value(n)) for n in range(COUNT)]


def noise(seed: int) -> random.Random:
    """The chance of one series."""
    return random.Random(seed)


def is_flat(series: list[Sample]) -> bool:
    """What is said of a series."""
    found = trend(series, TOLERANCE)
    assert found is not None
    return found.flat


@pytest.mark.parametrize("seed", range(20))
def test_what_is_noisy_and_bounded_is_flat(seed: int) -> None:
    """Noise, peaks, saw teeth, a warm-up, a fall: nothing of it grows."""
    chance = noise(seed)
    assert is_flat(samples(lambda n: 60 + chance.gauss(0, 8)))
    assert is_flat(samples(lambda n: 60 + 200 * (chance.random() < 0.1)))
    assert is_flat(samples(lambda n: 100 + (n * 7 + seed) % 20 * 10))
    assert is_flat(samples(lambda n: min(n, 70) * 3 + chance.gauss(0, 2)))
    assert is_flat(samples(lambda n: 300 - n + chance.gauss(0, 2)))


@pytest.mark.parametrize("seed", range(20))
def test_what_leaks_is_found(seed: int) -> None:
    """Control: a leak below noise, below peaks and below saw teeth, and one that goes in steps."""
    chance = noise(seed)
    assert not is_flat(samples(lambda n: 60 + n / 10 + chance.gauss(0, 2)))
    assert not is_flat(samples(lambda n: 60 + n / 10 + 200 * (chance.random() < 0.1)))
    assert not is_flat(samples(lambda n: 100 + n / 10 + (n * 7 + seed) % 13))
    assert not is_flat(samples(lambda n: 60 + n // 30 * 4))


def test_growth_within_the_tolerance_is_none() -> None:
    """However sure it is: less than the tolerance over the measured time is not worth mentioning."""
    assert is_flat(samples(lambda n: 60 + n * 0.01))
    assert not is_flat(samples(lambda n: 60 + n * 0.05))


def test_too_few_samples_tell_nothing() -> None:
    """Neither flat nor rising."""
    assert trend([], TOLERANCE) is None
    assert trend(samples(float)[:LEAST_SAMPLES], TOLERANCE) is None


def test_a_stream_that_fills_up_to_its_bound_is_flat() -> None:
    """Below its bound it grows, and is no leak; beyond it, and where there is none, it is one."""
    series = Series({"replies": 240})
    for n in range(COUNT):
        for of, factor in (("replies:cli", 1), ("replies:brain", 2), ("work:one", 1)):
            series.add(n * EVERY_S, "entries", of, n * factor)
    assert [line.split()[2] for line in rising(series.trends())] == ["replies:brain", "work:one"]


@contextmanager
def process(step: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """A process that does a step for each line: its id, and what lets it do one."""
    pipe = subprocess.PIPE
    argv = [sys.executable, "-c", LEAK.format(step=STEPS[step])]
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as running:
        stdin, stdout = running.stdin, running.stdout
        assert stdin is not None and stdout is not None
        lengths = noise(1)

        def do() -> None:
            stdin.write("x" * lengths.randrange(9) + "\n")
            stdin.flush()
            assert stdout.readline() == "done\n"

        yield running.pid, do
        stdin.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_leaks_is_found(step: str) -> None:
    """Control: a real process that keeps what it gets rises, in just that; one that frees it does not."""
    series = Series()
    with process(step) as (pid, do):
        for n in range(120):
            do()
            add_process(series, n * EVERY_S, "leaky", pid)
    add_process(series, COUNT * EVERY_S, "leaky", pid)  # it has ended: nothing to measure
    found = series.trends()
    assert {what for what, _ in found} == {"rss_mb", "descriptors", "threads"}
    assert {what for (what, _), each in found.items() if not each.flat} == {step} - {"nothing"}
    assert [line.partition(" of ")[0] for line in rising(found)] == sorted({step} - {"nothing"})


def test_a_folder_that_grows_is_found(tmp_path: Path) -> None:
    """Control: the size of all files below it."""
    series = Series()
    (tmp_path / "below").mkdir()
    for n in range(60):
        with (tmp_path / "below" / "file").open("ab") as file:
            file.truncate(n * 500_000)
        add_disk(series, n * EVERY_S, tmp_path)
    assert [line.partition(" rises")[0] for line in rising(series.trends())] == ["disk_mb of everything"]
