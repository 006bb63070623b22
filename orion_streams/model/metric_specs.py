"""The metrics: names, labels, units and buckets. Names are OpenTelemetry's for generative AI where it has
one, in Prometheus' spelling; units are base units, ratios 0 to 1.

What is counted are integers, so that the same events give the same numbers in any order: `per` of them
make one unit. No label names a request, a session or a client.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from orion_streams.model.vocabulary import (
    AbandonReason,
    Code,
    Filter,
    Mark,
    RequestKind,
    RequestState,
    UnloadReason,
)


class MetricKind(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"
    INFO = "info"


class Metric(Struct, frozen=True):
    """A metric by its name in the text. `bounds`: the upper bounds of a histogram's buckets, as counted."""

    name: str
    kind: MetricKind
    what: str
    labels: tuple[str, ...] = ()
    per: int = 1
    bounds: tuple[int, ...] = ()


OTHER = "other"
"""The label of whatever has none of its own."""
MOST_MODELS, MOST_NODES = 50, 64
"""So many models and nodes get a label."""

OPERATIONS = {
    RequestKind.CHAT: "chat",
    RequestKind.GENERATE: "text_completion",
    RequestKind.EMBED: "embeddings",
}
"""OpenTelemetry's words for what is asked for."""
OUTCOMES = ("done", "error", "expired", "cancelled")
ANSWERED, FAILED, ABANDONED, CANCELLED = RESULTS = ("answered", "failed", "abandoned", "cancelled")
INPUT, OUTPUT = TOKEN_TYPES = ("input", "output")
OK = "ok"
LOAD_RESULTS = (OK, FAILED)
ERROR_CODES = (
    Code.REFUSED, Code.ATTEMPTS_EXHAUSTED, Code.BODY_GONE, Code.PARTS_GONE, Code.ANSWER_TOO_LARGE,
    Code.UNKNOWN_MODEL, Code.MODEL_TOO_LARGE, Code.INCAPABLE,
)  # fmt: skip
REJECTIONS = (
    "bad_utf8", "bad_id", "bad_field", "bad_json", "too_large", "unknown_model", "model_too_large",
    "incapable", "unknown_id", "not_allowed", "unknown_node", "last_node", "node_away", "pull_off",
    "model_busy", "last_copy", "disk_busy", "queue_full",
)  # fmt: skip
ATTEMPT_CODES = (
    "agent_error", "agent_leaving", "agent_restarted", "answer_too_large", "bad_answer", "cancelled",
    "model_missing", "no_done", "not_ollama", "ollama_busy", "ollama_error", "ollama_memory",
    "ollama_unreachable", "overdue", "parts_gone", "parts_refused", "refused", "stalled", "stream_cut",
    *(each for each in AbandonReason if each != AbandonReason.OVERDUE),
)  # fmt: skip
"""Why attempts end without an answer: an agent's codes, then the router's reasons."""

REASONS = (*(each for each in Filter if each), "no_inference", "no_models")
STATES = (RequestState.WAITING, RequestState.ASSIGNED, RequestState.RUNNING)

OPERATION, MODEL, TOKEN_TYPE = "gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type"
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "orion_requests_total": {"outcome": OUTCOMES},
    "orion_request_errors_total": {"code": ERROR_CODES},
    "orion_rejected_total": {"code": REJECTIONS},
    "orion_attempts_total": {"result": RESULTS},
    "orion_attempt_failures_total": {"code": ATTEMPT_CODES},
    "orion_backoffs_total": {"reason": tuple(Mark)},
    "orion_planned_loads_total": {"result": LOAD_RESULTS},
    "orion_unloads_ordered_total": {"reason": tuple(UnloadReason)},
    "orion_requests_open": {"state": STATES},
    "orion_node_available": {"reason": REASONS},
}
"""The words that a label may be, beside `other`."""


def seconds(*bounds: float, per: int = 1000) -> tuple[int, ...]:
    """Return bounds as they are counted, by default in ms."""
    return tuple(round(each * per) for each in bounds)


def counter(name: str, what: str, *labels: str) -> Metric:
    """Return a counter."""
    return Metric(name, MetricKind.COUNTER, what, labels)


def gauge(name: str, what: str, *labels: str) -> Metric:
    """Return a gauge."""
    return Metric(name, MetricKind.GAUGE, what, labels)


def histogram(name: str, what: str, *labels: str, per: int = 1000, bounds: tuple[int, ...]) -> Metric:
    """Return a histogram, of ms unless `per` says otherwise."""
    return Metric(name, MetricKind.HISTOGRAM, what, labels, per, bounds)


DURATION = histogram(
    "gen_ai_server_request_duration_seconds",
    "Answered requests: from their acceptance to their end.",
    OPERATION,
    MODEL,
    bounds=seconds(
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
        327.68, 655.36, 1310.72,
    ),
)  # fmt: skip
FIRST_TOKEN = histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "Answered requests: from their acceptance to the first piece of the answer.",
    OPERATION,
    MODEL,
    bounds=seconds(0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 320, 640),
)
PER_TOKEN = histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Answered requests: the time that the node took for each token of the answer.",
    OPERATION,
    MODEL,
    per=1_000_000,
    bounds=seconds(
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, per=1_000_000
    ),
)  # fmt: skip
TOKENS = histogram(
    "gen_ai_client_token_usage",
    "Answered requests: tokens of the prompt (input) and of the answer (output), where there are any.",
    OPERATION,
    MODEL,
    TOKEN_TYPE,
    per=1,
    bounds=(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144),
)
WAIT = histogram(
    "orion_queue_wait_seconds",
    "From a request's acceptance, or the end of the attempt before, to the begin of a run, or to its end.",
    bounds=seconds(0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280),
)
LOAD = histogram(
    "orion_model_load_seconds",
    "Loads of a model: those that a request waited for, and planned ones.",
    "node",
    bounds=seconds(0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
)
HISTOGRAMS = (DURATION, FIRST_TOKEN, PER_TOKEN, TOKENS, WAIT, LOAD)

REQUESTS = counter("orion_requests_total", "Requests that ended.", "model", "outcome")
ERRORS = counter("orion_request_errors_total", "Requests that ended with an error.", "code")
REJECTED = counter("orion_rejected_total", "Entries that were no request, or not accepted.", "code")
ATTEMPTS = counter(
    "orion_attempts_total",
    "Attempts that ended, each once; cancelled: with their request.",
    "node",
    "result",
)
ATTEMPT_FAILURES = counter(
    "orion_attempt_failures_total", "Attempts that failed or were abandoned, by why.", "node", "code"
)
BACKOFFS = counter("orion_backoffs_total", "Times that a node passed a safety mark.", "node", "reason")
BREAKERS = counter("orion_breaker_openings_total", "Times that a node's breaker opened.", "node")
LOADS = counter("orion_planned_loads_total", "Planned loads that ended.", "node", "result")
UNLOADS = counter(
    "orion_unloads_ordered_total",
    "Models that a node was told to let go: for relief of its memory, or for the room of another.",
    "node",
    "reason",
)
RESTARTS = counter("orion_agent_restarts_total", "Times that a node's agent began anew.", "node")
COUNTERS = (
    REQUESTS, ERRORS, REJECTED, ATTEMPTS, ATTEMPT_FAILURES, BACKOFFS, BREAKERS, LOADS, UNLOADS, RESTARTS,
)  # fmt: skip

QUEUE_DEPTH = gauge("orion_queue_depth", "Requests that wait for a node.")
QUEUE_OLDEST = gauge("orion_queue_oldest_seconds", "For how long the oldest of them waits; 0 if none does.")
OPEN = gauge("orion_requests_open", "Open requests: waiting, assigned or running.", "state")
TEMPERATURE = gauge("orion_node_temperature_celsius", "Of a node that is heard and has a sensor.", "node")
MEMORY = gauge("orion_node_memory_used_ratio", "Of a node that is heard.", "node")
CPU = gauge("orion_node_cpu_used_ratio", "Of all cores of a node that is heard.", "node")
THROTTLED = gauge(
    "orion_node_throttled", "1: a node that is heard is throttled now, or lacks voltage.", "node"
)
AVAILABLE = gauge(
    "orion_node_available",
    "1: a request may run there; 0, and the reason: what keeps the node from every request.",
    "node",
    "reason",
)
HEARD = gauge("orion_node_heard_age_seconds", "Since a node's last health entry, if there was one.", "node")
BREAKER_OPEN = gauge("orion_node_breaker_open", "1: its breaker is open, nothing is sent there.", "node")
RUNS = gauge("orion_node_runs", "Runs that a node has in hand.", "node")
SLOTS = gauge("orion_node_slots", "Runs at a time that a node is configured for.", "node")
RESIDENT = gauge("orion_model_resident", "Models in the memory of a node that is heard.", "node", "model")
TEMPERATURE_MARK = gauge("orion_temperature_mark_celsius", "Above this a node takes nothing.")
MEMORY_MARK = gauge("orion_memory_mark_ratio", "Above this a node takes nothing.")
SILENT = gauge("orion_router_silent_seconds", "For how long no router has looked at its inputs.")
POSITION = gauge("orion_log_position", "The last entry of the log that these numbers hold.")
REVISION = gauge("orion_policy_revision", "Of the rules in force.")
GAUGES = (
    QUEUE_DEPTH, QUEUE_OLDEST, OPEN, TEMPERATURE, MEMORY, CPU, THROTTLED, AVAILABLE, HEARD, BREAKER_OPEN,
    RUNS, SLOTS, RESIDENT, TEMPERATURE_MARK, MEMORY_MARK, SILENT, POSITION, REVISION,
)  # fmt: skip
BUILD = Metric(
    "orion_build_info",
    MetricKind.INFO,
    "The gateway's version, and the version of the code that decides.",
    ("version", "decider"),
)
METRICS = (*HISTOGRAMS, *COUNTERS, *GAUGES, BUILD)
