"""Run folders to and from data sets of the Hugging Face Hub, on explicit command alone; what comes is checked."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import numpy as np

from arbench.evaluation.stored_run import CONFIG, GRID, LABELS, SHARDS, read_config
from arbench.machine.files import CHECKSUM_SUFFIX, PARTIAL, is_intact, one_line
from arbench.report.record import load_record
from arbench.runs.folder import EVENTS_FILE, RECORD_FILE
from arbench.runs.shards import Shards

RECORD_FILES = (RECORD_FILE, CONFIG, LABELS, GRID, EVENTS_FILE)  # of which a run must have the first two
SHARD = re.compile(r"[0-9]{6}\.npy(" + re.escape(CHECKSUM_SUFFIX) + ")?")
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LARGEST = 1 << 28  # bytes of one file that comes
KIND = "dataset"
PNG_START = b"\x89PNG\r\n\x1a\n"

Sizes = dict[str, int]  # a file's name inside the run folder, with / -> bytes


def check_repo(name: str) -> str:
    """`name`. Raises ValueError where it is none of a data set on the Hub."""
    if not REPO.fullmatch(name) or ".." in name:
        raise ValueError(f"repository {name!r}: expected OWNER/NAME")
    return name


def is_of_a_run(name: str, images: bool) -> bool:
    """Whether a file of this name belongs to a run folder: its record, or with `images` its shards too."""
    folder, _, file = name.rpartition("/")
    return name in RECORD_FILES or (images and folder == SHARDS and SHARD.fullmatch(file) is not None)


def files_of_run(run: Path, *, images: bool = False) -> Sizes:
    """What would be sent of a finished run. Raises ValueError or OSError where its record is broken or missing."""
    load_record(run)
    found = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
    names = {path.relative_to(run).as_posix(): path.stat().st_size for path in found}
    return {name: size for name, size in names.items() if is_of_a_run(name, images)}


def push(run: Path, repo: str, *, images: bool = False, public: bool = False) -> str:
    """Send a finished run to the data set `repo`, made (private unless `public`) where it is not there; its address.

    Raises ValueError for a folder that is no finished run, OSError where the Hub refuses or cannot be reached.
    """
    files, name = files_of_run(run, images=images), check_run(run.resolve().name)
    api = huggingface_hub.HfApi()
    with told_with(check_repo(repo)):
        api.create_repo(repo, repo_type=KIND, private=not public, exist_ok=True)
        add = huggingface_hub.CommitOperationAdd
        added = [add(path_in_repo=f"{name}/{file}", path_or_fileobj=str(run / file)) for file in files]
        commit = api.create_commit(repo, added, commit_message=f"Run {name}", repo_type=KIND)
    return str(commit.commit_url)


def check_run(name: str) -> str:
    """`name`. Raises ValueError where it cannot be that of a run folder."""
    if not RUN.fullmatch(name) or ".." in name:
        raise ValueError(f"run {name!r}: expected the name of a run folder: letters, digits, '.', '_' and '-'")
    return name


def list_runs(repo: str, *, images: bool = False) -> tuple[str, dict[str, Sizes]]:
    """Commit of the data set, and what can be taken from each run in it. Raises OSError as `push` does.

    Files that belong to no run folder are passed over, whatever they are called.
    """
    api = huggingface_hub.HfApi()
    with told_with(check_repo(repo)):
        commit = str(api.repo_info(repo, repo_type=KIND).sha)
        tree: list[Any] = list(api.list_repo_tree(repo, recursive=True, repo_type=KIND, revision=commit))
    runs: dict[str, Sizes] = {}
    for path, size in ((entry.path, entry.size) for entry in tree if getattr(entry, "size", None) is not None):
        run, _, file = path.partition("/")
        if RUN.fullmatch(run) and ".." not in run and is_of_a_run(file, images):
            runs.setdefault(run, {})[file] = size
    return commit, {run: files for run, files in runs.items() if {RECORD_FILE, CONFIG} <= files.keys()}


def choose_run(repo: str, runs: Mapping[str, Sizes], name: str | None) -> str:
    """The run of that name, or the only one. Raises ValueError that lists what is there."""
    if name is None and len(runs) == 1:
        return next(iter(runs))
    if name in runs:
        assert name is not None
        return name
    wanted = "no run is named" if name is None else f"run {name!r} is not there"
    raise ValueError(f"{repo}: {wanted}; expected one of: {', '.join(sorted(runs)) or 'none, it holds no run'}")


def pull(repo: str, run: str, files: Sizes, out: Path, *, commit: str) -> Path:
    """Fetch a run that `list_runs` told into `out`, whole and checked or not at all; its folder.

    Raises ValueError where it is there already or what came is not a run, OSError where it cannot be fetched.
    """
    target = out / check_run(run)
    if os.path.lexists(target):
        raise ValueError(f"{target} is there already; expected another --out")
    check_sizes(repo, files, out)
    partial = out / f".{run}.{secrets.token_hex(4)}{PARTIAL}"
    partial.mkdir(parents=True)
    try:
        for file, size in files.items():
            fetch(repo, f"{run}/{file}", size, partial, commit)
        check_pulled(partial / run)
        os.replace(partial / run, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def check_sizes(repo: str, files: Sizes, out: Path) -> None:
    """Raise ValueError for a file of more than LARGEST bytes, OSError where the disk has no room for all."""
    for file, size in files.items():
        if size > LARGEST:
            raise ValueError(f"{repo}: {file} has {size:,} bytes; expected at most {LARGEST:,}")
    there = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    total, free = sum(files.values()), shutil.disk_usage(there).free
    if total > free:
        raise OSError(f"{there}: {total:,} bytes to fetch, {free:,} free")


def fetch(repo: str, path: str, size: int, folder: Path, commit: str) -> None:
    """One file into `folder`, under its own path. Raises ValueError where it is not the file that was listed."""
    assert ".." not in PurePosixPath(path).parts
    with told_with(repo):
        huggingface_hub.hf_hub_download(repo, path, repo_type=KIND, revision=commit, local_dir=str(folder))
    file = folder / path
    if file.is_symlink() or not file.is_file() or file.stat().st_size != size:
        raise ValueError(f"{repo}: {path} did not come as a file of {size:,} bytes, as it was listed")


def check_pulled(run: Path) -> None:
    """Raise ValueError where a folder that came from elsewhere is not a run of arbench, file by file."""
    record, config = load_record(run), read_config(run)
    assert config is not None
    images = config["images"]
    if (record["model"], record["num_images"]) != (images.get("model"), images["num_images"]):
        raise ValueError(f"{run / RECORD_FILE}: is of another run than {CONFIG} beside it")
    if (run / LABELS).exists():
        labels = read_array(run / LABELS)
        if labels.shape != (images["num_images"],) or labels.dtype != np.int64:
            raise ValueError(f"{run / LABELS}: holds {labels.dtype} {labels.shape}; expected a class for each image")
    if (run / GRID).exists() and (run / GRID).read_bytes()[:8] != PNG_START:
        raise ValueError(f"{run / GRID}: is no PNG picture")
    shards = Shards(run / SHARDS, images["num_images"], config["shard_size"])
    for file in sorted((run / SHARDS).glob("*.npy")):
        if not is_intact(file) or int(file.stem) >= len(shards) or read_array(file).dtype != np.uint8:
            raise ValueError(f"{file}: is damaged or no shard of this run")


def read_array(file: Path) -> np.ndarray:
    """An array that holds numbers alone. Raises ValueError for anything else."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: is no array of numbers ({one_line(error)})") from None


@contextmanager
def told_with(repo: str) -> Iterator[None]:
    """Within it what the Hub's library raises becomes an OSError of one line; its kinds differ by version."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{repo}: {one_line(error)}") from error


def listing(files: Mapping[str, int]) -> Iterable[str]:
    """A line a file with its bytes, and the sum."""
    width = len(f"{sum(files.values()):,}")
    yield from (f"{size:>{width},}  {name}" for name, size in files.items())
    yield f"{sum(files.values()):>{width},}  bytes in {len(files)} files"
