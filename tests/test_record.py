"""record.json: every field is checked, and a written record reads back equal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from arbench.report.record import FIELDS, RECORD_FILE, load_record, new_record, validate, write_record

PROTOCOL = {"extractor": "digits-cnn", "reference": "digits-heldout", "reference_count": 360}


def record(**fields):
    defaults = {"method": "mar", "model": "mar-digits", "metrics": {"fid": 4.5}, "metric_protocol": PROTOCOL}
    return new_record(**{**defaults, **fields})


def test_a_new_record_has_every_field_of_the_contract_in_order():
    assert list(record()) == list(FIELDS)


def test_writing_and_reading_is_the_identity(tmp_path):
    written = record(
        seed=3, num_images=500, labels="balanced", speed={"seconds_per_image": 0.02, "phases": {"head": 0.01}}
    )
    assert write_record(written, tmp_path) == tmp_path / RECORD_FILE
    assert load_record(tmp_path) == load_record(tmp_path / RECORD_FILE) == written
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_FILE]


def test_numpy_values_become_plain_numbers():
    made = record(metrics={"fid": np.float64(1.5)}, num_images=np.int64(8), labels=np.arange(3))
    assert type(made["metrics"]["fid"]) is float
    assert type(made["num_images"]) is int
    assert made["labels"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"modle": "x"}, "did you mean 'model'"),
        ({"metrics": {"fdi": 1.0}}, "did you mean 'fid'"),
        ({"speed": {"second_per_image": 1.0}}, "did you mean 'seconds_per_image'"),
        ({"speed": {"phases": {"headd": 1.0}}}, "did you mean 'head'"),
        ({"versions": {"arbench": []}}, "versions.arbench"),
        ({"sampling": {"temperature": []}}, "sampling.temperature"),
        ({"metrics": {"fid": float("nan")}}, "'metrics.fid' is nan"),
        ({"metrics": {"fid": "4.5"}}, "expected int or float"),
        ({"metric_protocol": {}}, "metric_protocol.extractor"),
        ({"num_images": 0}, "at least 1"),
        ({"num_images": True}, "expected int"),
        ({"source": {"kind": "guessed"}}, "measured, published"),
        ({"method": None}, "expected str"),
        ({"schema": 99}, "schema 99"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(fields, told):
    with pytest.raises(ValueError, match=told) as error:
        record(**fields)
    assert "\n" not in str(error.value)


def test_a_missing_field_is_named():
    made = record()
    del made["hardware"]
    with pytest.raises(ValueError, match="lacks the field 'hardware'"):
        validate(made)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / RECORD_FILE).write_text(json.dumps(record())[:40])
    with pytest.raises(ValueError, match="not valid JSON"):
        load_record(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "none")


def test_a_record_that_fails_the_check_leaves_the_old_file(tmp_path):
    write_record(record(), tmp_path)
    with pytest.raises(ValueError, match="expected str"):
        write_record({**record(), "model": 3}, tmp_path)
    assert load_record(tmp_path) == record()


OTHER = {"metrics": {"fid": 30.0}, "metric_protocol": {**PROTOCOL, "extractor": "inception"}}


def test_a_record_of_schema_1_reads_as_one_of_this(tmp_path):
    old = {name: value for name, value in record(seed=1).items() if name != "other_extractors"}
    (tmp_path / RECORD_FILE).write_text(json.dumps({**old, "schema": 1}))
    assert load_record(tmp_path) == record(seed=1)
    assert list(load_record(tmp_path)) == list(FIELDS)
    (tmp_path / RECORD_FILE).write_text(json.dumps(old))
    with pytest.raises(ValueError, match="lacks the field 'other_extractors'"):
        load_record(tmp_path)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"inception": {**OTHER, "metrics": {"fdi": 1.0}}}, "other_extractors.inception.metrics entry 'fdi'; did you"),
        ({"inception": {"metrics": {}}}, "'other_extractors.inception.metric_protocol' is None"),
        ({"inception": {**OTHER, "protocol": {}}}, "did you mean 'metric_protocol'"),
        ({"dinov2": OTHER}, "'other_extractors.dinov2' is of 'inception'"),
        (
            {"digits-cnn": {**OTHER, "metric_protocol": PROTOCOL}},
            "'other_extractors.digits-cnn' is the first one again",
        ),
        ({"inception": {**OTHER, "metrics": {"fid": float("inf")}}}, "other_extractors.inception.metrics.fid' is inf"),
    ],
)
def test_other_extractors_are_checked(others, told):
    with pytest.raises(ValueError, match=told):
        record(other_extractors=others)


def test_other_extractors_write_and_read(tmp_path):
    written = record(other_extractors={"inception": OTHER})
    write_record(written, tmp_path)
    assert load_record(tmp_path) == written
