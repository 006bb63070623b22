"""docs/METRICS.md, made from model/metric_specs.py.

python -m tests.metrics_reference
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orion_streams.agents.grid_follower import MOST_BEHIND
from orion_streams.agents.metrics_keeper import SAVE_EVERY_S
from orion_streams.model import metric_specs as specs
from orion_streams.model.metric_specs import METRICS, MOST_MODELS, MOST_NODES, WORDS, Metric

DOCUMENT = Path(__file__).parents[1] / "docs" / "METRICS.md"
OPENING = f"""\
# Metrics

<!-- Made from model/metric_specs.py: do not edit.
     Write it anew with: python -m tests.metrics_reference -->

`GET /metrics` of the gateway ([ENDPOINT.md](ENDPOINT.md)), in Prometheus' text, or in OpenMetrics for
who asks for that. A scrape config and a dashboard for Grafana: [deploy/](../deploy/README.md). From
another machine than the gateway's it takes a key, and one for looking only is enough.

    curl -s http://127.0.0.1:11435/metrics
    ./orion key add prometheus --view-only

- **Folded from the log.** What is counted is what the log says, whoever asked and by whichever way; no
  node is asked. A scrape is answered with every node busy or away.
- **A restart is no reset.** Every {SAVE_EVERY_S:g} s, if anything was counted, the counters are written to
  `metrics-NAME.json` beside the gateway's keys (NAME: `[gateway] name`), with the position and the hash of
  the log up to there. A gateway that comes back, or was killed, folds what came meanwhile: nothing is
  missing and nothing counts twice. They begin at 0, and the gateway's log says so, where the file is lost,
  damaged or of another grid, or the server has lost the log's end. Where the log does not reach back, or
  the gateway was away for more than {MOST_BEHIND:,} events, they go on without these, and it says how many.
- **Two gateways** of one grid count the same: scrape one, or look at one `instance`.
- **Units** are base units, ratios 0 to 1. Names are OpenTelemetry's for generative AI where it has one;
  buckets go on to what a Pi takes.
- **Labels are few.** A model has one once a node has it, the first {MOST_MODELS} of them; a node of
  streams.toml, the first {MOST_NODES}; the rest is `other`. Words are those below, or `other`. No
  request, session, client or text stands anywhere.
- **A node that is not heard** has no temperature, memory, processor and models, rather than old ones.

A wait counts for each attempt: a request that was tried twice has two. Its 95th percentile in five
minutes:

    histogram_quantile(0.95, sum by (le) (rate(orion_queue_wait_seconds_bucket[5m])))
"""
CHAPTERS = {
    "Histograms": specs.HISTOGRAMS,
    "Counters": specs.COUNTERS,
    "Now": (*specs.GAUGES, specs.BUILD),
}


def labels_of(metric: Metric) -> str:
    """Return a metric's labels as the table has them."""
    return " ".join(f"`{label}`" for label in metric.labels)


def words() -> Iterator[str]:
    """Yield a row for each label that is a word."""
    of_genai = {specs.OPERATION: tuple(specs.OPERATIONS.values()), specs.TOKEN_TYPE: specs.TOKEN_TYPES}
    for name, labels in {**WORDS, "gen_ai_…": of_genai}.items():
        for label, values in labels.items():
            yield f"| `{name}` | `{label}` | {' '.join(f'`{each}`' for each in values)} |"


def buckets(metric: Metric) -> str:
    """Return the row of a histogram's buckets."""
    return f"| `{metric.name}` | {' '.join(f'{each / metric.per:g}' for each in metric.bounds)} |"


def document() -> str:
    """Return the whole text."""
    lines = [OPENING]
    for title, metrics in CHAPTERS.items():
        lines += [f"## {title}\n", "| metric | labels | what |", "| --- | --- | --- |"]
        lines += [f"| `{each.name}` | {labels_of(each)} | {each.what} |" for each in metrics]
        lines.append("")
    lines += ["## Words\n", "| metric | label | words |", "| --- | --- | --- |", *words(), ""]
    lines += [
        "## Buckets\n",
        "Upper bounds, in the unit of the name.\n",
        "| histogram | buckets |",
        "| --- | --- |",
    ]
    lines += [buckets(each) for each in METRICS if each.bounds]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
