"""Usage and Sample travel as one struct each; what stands on the wire is what always stood there."""

from __future__ import annotations

from msgspec import structs

from orion_streams.agents.ollama_answers import chunk
from orion_streams.model.measured import Sample, Usage
from orion_streams.protocol.agent_entries import HealthHead, ResultHead, encode_head

LAST_LINE = (
    b'{"done":true,"done_reason":"length","total_duration":7999999,"load_duration":1000000,'
    b'"prompt_eval_count":11,"prompt_eval_duration":2000000,"eval_count":5,"eval_duration":4000000}'
)
USAGE = Usage(5, 11, load_ms=1, prefill_ms=2, decode_ms=4, total_ms=7, done_reason="length")


def test_usage_goes_from_ollamas_last_line_to_the_wire() -> None:
    """Nanoseconds become whole milliseconds; the result's bytes have each field at its old place."""
    assert chunk(LAST_LINE).usage == USAGE
    head = ResultHead("completed", "brain/q", 2, "7-1", engine="ollama 0.24.0")
    full = structs.replace(head, **USAGE.fields())
    assert encode_head(full) == (
        b'{"op":"completed","request":"brain/q","attempt":2,"work_id":"7-1","engine":"ollama 0.24.0",'
        b'"tokens":5,"prompt_tokens":11,"load_ms":1,"prefill_ms":2,"decode_ms":4,"total_ms":7,'
        b'"done_reason":"length"}'
    )
    assert Usage.of(full) == USAGE
    assert structs.replace(head, **Usage().fields()) == head


def test_a_line_before_the_last_has_no_usage() -> None:
    """Only `done` ends an answer, whatever else a line counts."""
    assert chunk(b'{"response":"x","done":false,"eval_count":5}').usage is None


def test_a_sample_stands_in_the_health_entry_as_it_was_taken() -> None:
    """A machine's measurements keep names, order and values; a missing sensor is null."""
    sample = Sample(temp_mc=61_500, ram_used_mb=900, ram_total_mb=8000, cpu_permille=970, throttled=5)
    assert encode_head(HealthHead(boot="b", sampled_ms=9, **sample.fields(), work_read="3-1")) == (
        b'{"boot":"b","sampled_ms":9,"temp_mc":61500,"ram_used_mb":900,"ram_total_mb":8000,'
        b'"cpu_permille":970,"throttled":5,"work_read":"3-1"}'
    )
    blind = structs.replace(sample, temp_mc=None, throttled=0)
    assert encode_head(HealthHead(boot="b", sampled_ms=9, **blind.fields())) == (
        b'{"boot":"b","sampled_ms":9,"temp_mc":null,"ram_used_mb":900,"ram_total_mb":8000,'
        b'"cpu_permille":970}'
    )
