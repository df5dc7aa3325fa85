"""Broken input of every kind that is read: whatever stands in it, the law of `laws` holds.

The commands stand in `test_chaos.py`, which tries what happens to sound files.
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.configuration
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import MINUTES, command_keeps_the_law, keeps_the_law

from arbench.evaluation.files import read_state
from arbench.evaluation.reference import open_reference
from arbench.evaluation.sources import open_images
from arbench.papers.experiment import build_experiment
from arbench.report.record import new_record
from arbench.runs.folder import resume_run, start_run
from arbench.weights.read import read_tensors

hypothesis.configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "arbench-hypothesis")
MINUTES_OF_ALL = 12  # that the counts of the long part take, with `test_chaos.py`
IMAGES = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
RUN = {"images": {"num_images": 3, "labels": "balanced"}, "evaluation": None}


def fuzzed(short: int, long: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A test over `strategies` that runs twice: `short` fixed examples in CI, `long` new ones where slow tests run."""

    def decorate(check: Callable[..., None]) -> Any:
        def run(count: int, same: bool, folder: Path) -> None:
            quiet = settings(
                max_examples=count if same else max(1, round(count * MINUTES / MINUTES_OF_ALL)),
                derandomize=same,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            quiet(given(**strategies)(lambda **drawn: check(folder, **drawn)))()

        @pytest.mark.parametrize(
            ("count", "same"),
            [pytest.param(short, True, id="short"), pytest.param(long, False, id="long", marks=pytest.mark.slow)],
        )
        def test(count: int, same: bool, tmp_path: Path) -> None:
            run(count, same, tmp_path)

        test.__doc__ = check.__doc__
        return test

    return decorate


# Values that have been seen to break things, beside whatever else is drawn.
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 2**64, 2**70, 10**12, 10**400, -(2**63)]),
    st.floats(allow_nan=True, allow_infinity=True),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "²", "\x1b[2J", "a\nb", "=1+1", "\u202e", "digits-heldout", "nan", "inf", "../..", "<b>|", "$", "\\"]
    ),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    LEAVES, lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(TEXTS, part, max_size=3)), max_leaves=8
)


def deeply(kind: str, depth: int) -> str:
    return {"list": "[", "map": '{"a":'}[kind] * depth


@st.composite
def changed(draw: st.DrawFn, whole: dict[str, Any]) -> Any:
    """`whole` with one to three of its values, at any depth, replaced, removed or added."""
    content = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            key = draw(st.sampled_from([*place, "new"]))
            inner = place.get(key)
            if not (isinstance(inner, dict) and inner and draw(st.booleans())):
                break
            place = inner
        if draw(st.integers(0, 5)):
            place[key] = draw(VALUES)
        else:
            place.pop(key, None)
    return content


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` cut off, or with bytes changed, put in or taken out."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["set", "insert", "remove", "cut"]))
        if how == "set" and data:
            data[where] = draw(st.integers(0, 255))
        elif how == "insert":
            data[where:where] = draw(st.binary(min_size=1, max_size=8))
        elif how == "remove":
            del data[where : where + draw(st.integers(1, 8))]
        elif how == "cut":
            del data[where:]
    return bytes(data)


METRICS = {"fid": 3.5, "is_mean": 4.0, "is_std": 0.1, "precision": 0.5}
PROTOCOL = {"extractor": "digits-cnn", "reference": "digits-heldout", "measured": {"intervals": {"fid": [3.0, 4.0]}}}
RECORD = new_record(
    method="par",
    model="par-digits",
    tokenizer="digits-vq",
    seed=0,
    num_images=10,
    sampling={"temperature": 1.0, "cfg_scale": 1.5},
    metrics=METRICS,
    metric_protocol=PROTOCOL,
    speed={"seconds_per_image": 0.1, "phases": {"generator": 0.05}, "steps": 4},
    hardware={"device": "cpu", "name": "x"},
    versions={"arbench": "0.1.0"},
)


@fuzzed(25, 2000, record=changed(RECORD), format=st.sampled_from(["md", "csv", "latex", "html"]))
def test_records(folder: Path, record: Any, format: str) -> None:
    (folder / "record.json").write_text(json.dumps(record))
    command_keeps_the_law(["table", str(folder), "--format", format], folder)


@fuzzed(
    40,
    2000,
    content=st.one_of(
        damaged(json.dumps(RECORD).encode()),
        st.builds(str.encode, st.builds(deeply, st.sampled_from(["list", "map"]), st.integers(1, 100_000))),
    ),
)
def test_bytes_of_records(folder: Path, content: bytes) -> None:
    (folder / "record.json").write_bytes(content)
    command_keeps_the_law(["table", str(folder)], folder)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(record=changed(RECORD))
def test_plots_and_reports_of_records(tmp_path_factory: pytest.TempPathFactory, record: Any) -> None:
    folder = tmp_path_factory.mktemp("plots")
    (folder / "record.json").write_text(json.dumps(record))
    command_keeps_the_law(["plot", str(folder), "-o", str(folder / "curve.svg")], folder)
    command_keeps_the_law(["report", str(folder), "-o", str(folder / "report.html")], folder)


@fuzzed(60, 3000, content=st.one_of(changed({**RUN, "shard_size": 64, "arbench": "0"}), VALUES))
def test_configurations(folder: Path, content: Any) -> None:
    run = _run_folder(folder)
    (run / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="replace")
    _read_run(run, folder)


@fuzzed(60, 3000, content=damaged(yaml.safe_dump({**RUN, "shard_size": 64}).encode()))
def test_bytes_of_configurations(folder: Path, content: bytes) -> None:
    run = _run_folder(folder)
    (run / "config.yaml").write_bytes(content)
    _read_run(run, folder)


def _run_folder(folder: Path) -> Path:
    found = next(folder.glob("m-*"), None)
    if found is None:
        started = start_run(folder, "m", RUN)
        started.shards.write(0, IMAGES)
        found = started.path
        np.save(found / "labels.npy", np.arange(3))
    return found


def _read_run(run: Path, folder: Path) -> None:
    keeps_the_law(lambda: list(open_images(run).blocks()), folder)
    keeps_the_law(lambda: resume_run(folder, "m", RUN), folder)


@fuzzed(
    40,
    2000,
    content=damaged(
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }".ljust(127)
        + b"\n"
        + bytes(24)
    ),
)
def test_labels(folder: Path, content: bytes) -> None:
    run = _run_folder(folder)
    (run / "labels.npy").write_bytes(content)
    keeps_the_law(lambda: open_images(run), folder)


def _npz(arrays: dict[str, Any], compressed: bool) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


SOUND = {
    "mu": np.zeros(4),
    "sigma": np.eye(4),
    "count": 9,
    "arr_0": IMAGES,
    "arr_1": np.arange(3),
    "meta": json.dumps({"name": "mine", "split": "train"}),
}
DTYPES = st.sampled_from(["u1", "i8", "f4", "f8", "c16", "U3", "?", "f2", "M8[s]"])
ARRAYS = st.builds(
    lambda dtype, shape, fill: np.full(shape, fill).astype(dtype) if dtype != "M8[s]" else np.zeros(shape, dtype),
    DTYPES,
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from([0, 1, 3, 200]),
)
ENTRIES = st.dictionaries(
    st.sampled_from([*SOUND, "mu_s", "sigma_s", "x"]), st.one_of(ARRAYS, TEXTS.map(np.array)), max_size=3
)


@fuzzed(120, 6000, changes=ENTRIES, compressed=st.booleans())
def test_arrays_of_npz(folder: Path, changes: dict[str, Any], compressed: bool) -> None:
    (folder / "a.npz").write_bytes(_npz({**SOUND, **changes}, compressed))
    _read_npz(folder)


@fuzzed(150, 8000, content=st.one_of(damaged(_npz(SOUND, False)), damaged(_npz(SOUND, True))))
def test_bytes_of_npz(folder: Path, content: bytes) -> None:
    (folder / "a.npz").write_bytes(content)
    _read_npz(folder)


@fuzzed(
    60,
    3000,
    header=damaged(b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 4, 3), }"),
    name=st.sampled_from(["arr_0", "mu", "arr_1"]),
)
def test_headers_of_npz(folder: Path, header: bytes, name: str) -> None:
    """Sound zip files whose arrays say odd things of themselves."""
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + IMAGES.tobytes()
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr(f"{name}.npy", npy)
        if name != "mu":
            archive.writestr("mu.npy", npy)
    _read_npz(folder)


def _read_npz(folder: Path) -> None:
    keeps_the_law(lambda: open_reference(folder / "a.npz"), folder)
    keeps_the_law(lambda: list(open_images(folder / "a.npz").blocks()), folder)


HEADER = {
    "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "ids": {"dtype": "I64", "shape": [2], "data_offsets": [24, 40]},
    "__metadata__": {"target": "digits-kl"},
}


@fuzzed(120, 6000, header=changed(HEADER), length=st.sampled_from([0, 0, 0, 1, -1, 2**40, 2**63]))
def test_safetensors_headers(folder: Path, header: Any, length: int) -> None:
    text = json.dumps(header).encode()
    told = (len(text) + length) % 2**64
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", told) + text + bytes(40))
    for read in (read_tensors, read_state):
        keeps_the_law(lambda read=read: read(folder / "a.safetensors"), folder)


ROWS = {
    "title": "t",
    "source": "s",
    "columns": ["fid"],
    "defaults": {"method": "par", "sampling": {"temperature": 1.0}},
    "rows": {"a": {"model": "par-digits", "seeds": [0, 1]}, "b": {"base": "a", "num_images": 100}},
}


@fuzzed(60, 3000, content=changed(ROWS))
def test_rows(folder: Path, content: Any) -> None:
    def read() -> None:
        text = yaml.safe_dump(content, allow_unicode=True)
        for row in build_experiment("x/y", yaml.safe_load(text)).rows:
            row.settings, row.digest  # noqa: B018 - computed

    keeps_the_law(read, folder)


OPTIONS = st.sampled_from(
    [
        "--method",
        "--model",
        "--seed",
        "--num-images",
        "--batch-size",
        "--temperature",
        "--cfg-scale",
        "--top-k",
        "--num-iter",
        "--head-steps",
        "--device",
        "--dtype",
        "--out",
        "--labels",
        "--per-class",
        "--weights",
        "--reference",
        "--format",
        "--size",
        "--row",
        "--experiment",
        "--x",
        "--resume",
        "--help",
        "--tokenizer",
        "--metrics",
    ]
)
WORDS = st.one_of(TEXTS, NUMBERS.map(str), st.sampled_from(["par", "mar", "ar", "random", "auto", "md", "digits"]))
COMMANDS = st.sampled_from(
    ["run", "sample", "table", "weights", "bench", "eval", "plot", "cache", "train", "models", ""]
)


# Where each command would begin to do what it was asked for.
MEANT = (
    "arbench.runs.execute.open_folder",
    "arbench.runs.samples.sample_rows",
    "arbench.training.jobs.run_job",
    "arbench.training.tokens.open_cache",
    "arbench.bench.generation.bench_generation",
    "arbench.bench.tokenizer.bench_tokenizer",
)


@fuzzed(12, 1500, command=COMMANDS, rest=st.lists(st.one_of(OPTIONS, WORDS, st.tuples(OPTIONS, WORDS)), max_size=5))
def test_command_lines(folder: Path, command: str, rest: list[Any]) -> None:
    """Nothing is drawn, trained or measured: what is meant to be found out is found out before."""
    words = [word for part in rest for word in (part if isinstance(part, tuple) else (part,))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ARBENCH_WEIGHTS", str(folder / "none"))
        for place in MEANT:
            patch.setattr(place, _stop)
        command_keeps_the_law([command, *words] if command else words, folder)


def _stop(*_: Any, **__: Any) -> None:
    raise ValueError("far enough")
