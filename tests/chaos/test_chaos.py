"""Kills, dead ranks, damaged files, full disks and two at once: in the end the same images, scores and weights.

python -m pytest tests/chaos                 # the short part, as in CI
python -m pytest tests/chaos -m slow         # the long one, new cases each time, for ARBENCH_CHAOS_MINUTES (12)
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from children import Child, as_command, killed
from laws import CODES, MINUTES, assert_nothing_partial, counted
from PIL import Image
from safetensors.numpy import load_file
from small_disk import small_disk
from tiny_runs import images_of, only_run, tiny

import arbench
from arbench.cli import run_command
from arbench.report.record import load_record
from arbench.runs.request import IF_STARTED

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore::arbench.machine.log.LogWarning"
)
SEED = int(os.environ.get("ARBENCH_CHAOS_SEED", str(time.time_ns() % 2**32)))
SHARE = 0.05  # of the minutes, for each of the tests below; the rest is the fuzzer's
ROOM = 64 * 32 * 32 * 3  # bytes of a shard
NUM_IMAGES = 192
LONG = pytest.param(True, id="long", marks=pytest.mark.slow)
both = pytest.mark.parametrize("long", [pytest.param(False, id="short"), LONG])
long_alone = pytest.mark.parametrize("long", [LONG])  # what takes more than a few seconds a case


def rounds(long: bool, short: int) -> Iterator[tuple[int, random.Random]]:
    """Numbers and chances of the cases: `short` fixed ones, or new ones until the test's share of time is over."""
    end, number = time.monotonic() + SHARE * MINUTES * 60, 0
    while (time.monotonic() < end) if long else (number < short):
        yield number, random.Random(SEED + number if long else number)
        number += 1


@dataclass(frozen=True)
class Work:
    """Something that leaves files in a folder: how it is begun, how it is gone on with, what comes out of it."""

    name: str
    begin: Callable[[Path], object]
    resume: Callable[[Path], object]
    outcome: Callable[[Path], object]

    def go_on(self, folder: Path) -> Callable[[], object]:
        """Begin in an empty folder, go on elsewhere; as a user does who is told to."""
        begun = any(path.is_file() for path in folder.rglob("*"))
        return functools.partial(self.resume if begun else self.begin, folder)


def sample(folder: Path, **how: object) -> None:
    arbench.run(**tiny(num_images=NUM_IMAGES), out=folder, batch_size=64, **how)


def score(folder: Path, **how: object) -> None:
    arbench.run(**{**tiny(num_images=NUM_IMAGES), "evaluate": True}, out=folder, batch_size=64, **how)


def images_and_scores(folder: Path) -> object:
    run = only_run(folder)
    return images_of(run).tobytes(), load_record(run)["metrics"]


def train(folder: Path, *more: str) -> int:
    few = ("--target", "digits-cnn", "--steps", "12", "--batch-size", "4", "--device", "cpu", "--out", str(folder))
    return run_command(["train", "--config", "digits", *few, *more])


def resume_training(folder: Path) -> int:
    return train(folder, "--resume", "auto")


def weights(folder: Path) -> object:
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return [{name: value.tobytes() for name, value in load_file(file).items()} for file in files]


def cache(folder: Path) -> int:
    return run_command(["cache", "--tokenizer", "digits-vq", "--device", "cpu", "--out", str(folder)])


def tokens(folder: Path) -> object:
    return {path.name: path.read_bytes() for path in folder.rglob("*.npy")}


WORKS = {
    work.name: work
    for work in (
        Work(
            "sampling", sample, lambda folder: sample(folder, resume=True), lambda f: images_of(only_run(f)).tobytes()
        ),
        Work("evaluation", score, lambda folder: score(folder, resume=IF_STARTED), images_and_scores),
        Work("training", train, resume_training, weights),
        Work("caching", cache, cache, tokens),
    )
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, float]]:
    """The folder of a work that nothing disturbed, and the seconds that it took in a child of its own."""

    @functools.cache
    def of(name: str) -> tuple[Path, float]:
        folder = tmp_path_factory.mktemp(name)
        begin = time.monotonic()
        work = WORKS[name]
        assert Child.start(functools.partial(work.begin, folder), folder.with_name(f"{name}.txt")).wait() == 0
        return folder, time.monotonic() - begin

    return of


@pytest.mark.parametrize(
    ("name", "long"), [("training", False), *(pytest.param(name, True, marks=pytest.mark.slow) for name in WORKS)]
)
def test_killed_at_random_it_ends_with_the_same(
    name: str, long: bool, undisturbed: Callable[[str], tuple[Path, float]], tmp_path: Path
) -> None:
    work, (expected, seconds) = WORKS[name], undisturbed(name)
    for number, chance in rounds(long, 1):
        with counted(f"killed {name}"):
            folder = tmp_path / str(number)
            folder.mkdir()
            told = tmp_path / "told.txt"
            moments = [killed(work.go_on(folder), told, chance, seconds) for _ in range(chance.randint(1, 3))]
            assert Child.start(work.go_on(folder), told).wait() == 0, (moments, told.read_text())
            assert work.outcome(folder) == work.outcome(expected), moments
            assert_nothing_partial(folder)
            shutil.rmtree(folder)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))] if data else data


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    if data:
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": cut,
    "flipped": flipped,
    "emptied": lambda data, chance: b"",
}


def damage(files: list[Path], chance: random.Random) -> str:
    """Damage one of `files`, or swap it with another one of its kind; what was done."""
    file = chance.choice(files)
    others = [other for other in files if other.suffix == file.suffix and other != file]
    how = chance.choice([*DAMAGES, *(["swapped"] if others else [])])
    if how == "swapped":
        other = chance.choice(others)
        mine, theirs = file.read_bytes(), other.read_bytes()
        file.write_bytes(theirs)
        other.write_bytes(mine)
        return f"{file.name} swapped with {other.name}"
    file.write_bytes(DAMAGES[how](file.read_bytes(), chance))
    return f"{file.name} {how}"


# What a work goes on from, once these are damaged. Records have no checksum: see `test_damaged_records`.
READ_AGAIN = {
    "sampling": ("*.npy", "*.sha256", "config.yaml", "events.jsonl"),
    "evaluation": ("*.npy", "*.sha256", "config.yaml", "events.jsonl"),
    "training": ("*.distcp", ".metadata", "facts.json", "log.jsonl", "config.yaml"),
}


@pytest.mark.parametrize(
    ("name", "long"),
    [("evaluation", False), *(pytest.param(name, True, marks=pytest.mark.slow) for name in READ_AGAIN)],
)
def test_damaged_files_are_told_or_made_anew(
    name: str, long: bool, undisturbed: Callable[[str], tuple[Path, float]], tmp_path: Path
) -> None:
    """Without its result; what was made of sound files comes out, or one line that says what is wrong."""
    work, (expected, _) = WORKS[name], undisturbed(name)
    for number, chance in rounds(long, 3):
        with counted(f"damaged {name}"):
            folder = shutil.copytree(expected, tmp_path / str(number))
            for result in (*folder.rglob("record.json"), *folder.rglob("*.safetensors")):
                result.unlink()
            files = sorted(path for pattern in READ_AGAIN[name] for path in folder.rglob(pattern))
            what = damage(files, chance)
            told = tmp_path / "told.txt"
            code = Child.start(work.go_on(folder), told).wait()
            assert_lawful(code, told, what)
            if code == 0:
                assert work.outcome(folder) == work.outcome(expected), what
            assert_nothing_partial(folder)
            shutil.rmtree(folder)


def assert_lawful(code: int, told: Path, what: object) -> None:
    assert code in CODES, (code, what, told.read_text())
    if code:
        errors = [line for line in told.read_text().splitlines() if line.startswith("arbench: error: ")]
        assert len(errors) == 1, (what, told.read_text())
        assert "Traceback" not in told.read_text()


@long_alone
def test_a_damaged_cache_trains_nothing_else(long: bool, tmp_path: Path) -> None:
    """Tokens, labels and specification of a cache that training finds."""

    def job(folder: Path) -> int:
        few = ("--steps", "2", "--batch-size", "4", "--views", "1", "--device", "cpu", "--out", str(folder))
        return run_command(["train", "--model", "par-digits", *few])

    told, expected = tmp_path / "told.txt", tmp_path / "expected"
    assert Child.start(functools.partial(job, expected), told).wait() == 0
    for number, chance in rounds(long, 1):
        with counted("damaged cache"):
            folder = tmp_path / str(number)
            shutil.copytree(expected / "cache", folder / "cache")
            what = damage(sorted(path for path in (folder / "cache").rglob("*") if path.is_file()), chance)
            code = Child.start(functools.partial(job, folder), told).wait()
            assert_lawful(code, told, what)
            if code == 0:
                assert weights(folder) == weights(expected), what
            shutil.rmtree(folder)


@both
def test_a_damaged_reference_gives_the_same_score_or_none(
    long: bool, undisturbed: Callable[[str], tuple[Path, float]], tmp_path: Path
) -> None:
    images = only_run(undisturbed("sampling")[0])
    made, scores = tmp_path / "made.npz", tmp_path / "scores.json"
    for number, image in enumerate(images_of(images)[:40]):
        Image.fromarray(255 - image).save(tmp_path / f"{number:02d}.png")
    make = [
        "eval",
        "--make-reference",
        str(tmp_path),
        "--out",
        str(made),
        "--extractor",
        "digits-cnn",
        "--crop",
        "none",
    ]
    assert run_command(make) == 0
    ask = ["eval", str(images), "--metrics", "fid", "--extractor", "digits-cnn", "--out", str(scores), "--reference"]
    told = tmp_path / "told.txt"

    def scored(reference: Path) -> int:
        scores.unlink(missing_ok=True)
        return Child.start(lambda: run_command([*ask, str(reference)]), told).wait()

    assert scored(made) == 0, told.read_text()
    expected = json.loads(scores.read_text())
    for number, chance in rounds(long, 2):
        with counted("damaged reference"):
            copy = shutil.copy(made, tmp_path / f"{number}.npz")
            what = damage([Path(copy)], chance)
            code = scored(Path(copy))
            assert_lawful(code, told, what)
            if code == 0:
                assert json.loads(scores.read_text())["fid"] == expected["fid"], (
                    what
                )  # the protocol has its new SHA-256


@both
def test_damaged_records(long: bool, undisturbed: Callable[[str], tuple[Path, float]], tmp_path: Path) -> None:
    """A table of a damaged record is a table or one line. A digit may be another one: a record has no checksum."""
    record = (only_run(undisturbed("evaluation")[0]) / "record.json").read_bytes()
    for _, chance in rounds(long, 5):
        with counted("damaged record"):
            file, told = tmp_path / "record.json", tmp_path / "told.txt"
            file.write_bytes(record)
            what = damage([file], chance)
            table = functools.partial(run_command, ["table", str(tmp_path)])
            assert_lawful(Child.start(table, told).wait(), told, what)


@both
def test_a_full_disk_loses_nothing(
    long: bool, undisturbed: Callable[[str], tuple[Path, float]], tmp_path: Path
) -> None:
    expected = images_and_scores(undisturbed("evaluation")[0])
    told = tmp_path / "told.txt"
    for number, chance in rounds(long, 1):
        with (
            counted("full disk"),
            small_disk(disk_kind(), tmp_path / f"disk-{number}", chance.randrange(4096, 4 * ROOM)) as disk,
        ):
            code = Child.start(functools.partial(score, disk.folder), told).wait()
            assert_lawful(code, told, "full disk")
            if code:
                assert "no space left" in told.read_text()
            assert_nothing_partial(disk.folder)
            disk.enlarge(20 * ROOM)
            begun = [path for path in disk.folder.iterdir() if path.is_dir()]
            assert as_command(functools.partial(score, disk.folder, resume=bool(begun))) == 0
            assert images_and_scores(disk.folder) == expected


@functools.cache
def disk_kind() -> str:
    """A real small disk where mounts are allowed."""
    return "tmpfs" if os.geteuid() == 0 and shutil.which("mount") and can_mount() else "fake"


def can_mount() -> bool:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk("tmpfs", Path(folder) / "probe", 4096):
                return True
        except pytest.skip.Exception:
            return False


@long_alone
def test_two_runs_on_one_folder(long: bool, undisturbed: Callable[[str], tuple[Path, float]], tmp_path: Path) -> None:
    """One begins, another one goes on with it or begins too, at a random moment: nothing is mixed up."""
    folder, seconds = undisturbed("evaluation")
    for number, chance in rounds(long, 1):
        with counted("two at once"):
            out = tmp_path / str(number)
            out.mkdir()
            told = [tmp_path / "first.txt", tmp_path / "second.txt"]
            first = Child.start(functools.partial(score, out), told[0])
            time.sleep(chance.uniform(0, seconds))
            second = Child.start(functools.partial(score, out, resume=chance.random() < 0.7), told[1])
            codes = [first.wait(), second.wait()]
            assert codes[0] == 0 or codes[1] == 0, [file.read_text() for file in told]
            for code, file in zip(codes, told, strict=True):
                assert_lawful(code, file, "two at once")
            for run in out.iterdir():  # a second one where the first had finished
                assert images_of(run).tobytes() == images_and_scores(folder)[0]
                assert load_record(run)["metrics"] == images_and_scores(folder)[1]
            shutil.rmtree(out)


def ranks(out: Path, told: Path) -> list[Child]:
    """Two processes of one run, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [
        Child.start(
            functools.partial(score, out, resume=IF_STARTED),
            told.with_name(f"rank-{rank}.txt"),
            {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]


@both
def test_killed_ranks(long: bool, undisturbed: Callable[[str], tuple[Path, float]], tmp_path: Path) -> None:
    """One of two is killed: the first does its work, or a resume does that of both."""
    folder, seconds = undisturbed("evaluation")
    expected, told = images_and_scores(folder), tmp_path / "told.txt"
    for number, chance in rounds(long, 1):
        with counted("killed rank"):
            out = tmp_path / str(number)
            out.mkdir()
            both_ranks = ranks(out, told)
            time.sleep(chance.uniform(0.3, 0.3 + seconds))
            dead = chance.randrange(2)
            both_ranks[dead].kill()
            both_ranks[dead].wait()
            if dead == 0:  # torchrun would end the other one
                both_ranks[1].kill()
            both_ranks[1 - dead].wait()
            again = Child.start(functools.partial(score, out, resume=IF_STARTED), told)
            assert again.wait() == 0, (dead, told.read_text())
            assert images_and_scores(out) == expected, dead
            shutil.rmtree(out)
