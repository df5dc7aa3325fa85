"""Run folders to and from the Hub, which a stand-in of its library plays here."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import arbench
from arbench import cli
from arbench.runs import hub

REPO = "me/my-runs"
SECRET = "keys.txt"


class FakeHub:
    """Data sets as dicts of path -> bytes, with the members of the Hub's library that are used."""

    def __init__(self):
        self.sets, self.private = {}, {}

    def create_repo(self, repo, *, repo_type, private, exist_ok):
        assert repo_type == "dataset"
        assert exist_ok
        self.sets.setdefault(repo, {})
        self.private.setdefault(repo, private)

    def create_commit(self, repo, operations, *, commit_message, repo_type):
        for added in operations:
            self.sets[repo][added.path_in_repo] = Path(added.path_or_fileobj).read_bytes()
        return SimpleNamespace(commit_url=f"https://hub/{repo}/commit/1")

    def repo_info(self, repo, *, repo_type):
        if repo not in self.sets:
            raise RuntimeError("404\nnot found")
        return SimpleNamespace(sha="1" * 40)

    def list_repo_tree(self, repo, *, recursive, repo_type, revision):
        assert revision == "1" * 40
        yield SimpleNamespace(path="a-folder")
        for path, data in self.sets[repo].items():
            yield SimpleNamespace(path=path, size=len(data))

    def download(self, repo, path, *, repo_type, revision, local_dir):
        target = Path(local_dir) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.sets[repo][path])


@pytest.fixture
def fake(monkeypatch):
    there = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: there)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", there.download)
    monkeypatch.setattr(cli, "COMMAND_MODULES", ("sample", "share"))
    return there


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two images, with something beside them that is nobody else's business."""
    out = tmp_path_factory.mktemp("runs")
    folder = arbench.run(method="par", weights="random", num_images=2, evaluate=False, out=out).folder
    (folder / SECRET).write_text("secret")
    (folder / "labels-link.npy").symlink_to(folder / "labels.npy")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*words):
    return cli.run_command([str(word) for word in words])


@pytest.mark.parametrize("images", [(), ("--images",)])
def test_there_and_back_again_is_the_same_run(fake, run, tmp_path, capsys, images):
    assert command("push", run, REPO, *images) == 0
    assert fake.private == {REPO: True}
    assert command("pull", REPO, "--out", tmp_path, *images) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / run.name)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    shards = {"shards/000000.npy", "shards/000000.npy.sha256"} if images else set()
    wanted = {"record.json", "config.yaml", "labels.npy", "grid.png", "events.jsonl"} | shards
    assert contents(tmp_path / run.name) == {name: data for name, data in contents(run).items() if name in wanted}
    assert command("pull", REPO, run.name, "--out", tmp_path) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_dry_run_lists_files_and_bytes_and_does_nothing(fake, run, tmp_path, capsys, monkeypatch):
    assert command("push", run, REPO, "--dry-run") == 0
    assert fake.sets == {}
    told = capsys.readouterr().out
    for name in ("record.json", "config.yaml"):
        assert f"{(run / name).stat().st_size:,}  {name}\n" in told
    assert SECRET not in told
    assert "link" not in told
    assert command("push", run, REPO, "--public") == 0
    assert fake.private == {REPO: False}
    capsys.readouterr()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    for words in ((), (run.name,)):
        assert command("pull", REPO, *words, "--dry-run", "--out", tmp_path / "new") == 0
        assert capsys.readouterr().out.endswith(told)
    assert not (tmp_path / "new").exists()


HOSTILE = (
    *("../record.json", "../../x/record.json", "/etc/record.json", "..", ".hidden/record.json", "record.json"),
    *("a/../b/record.json", "a/.claims/x", "a/keys.txt", "a/shards/../../x.npy", "a/shards/000000.npy/x"),
    *("a/b/record.json", "a\\..\\record.json", "a/shards/1.npy", "a..b/record.json", "a/shards/000000.npy.exe"),
)


@pytest.mark.parametrize("path", HOSTILE)
def test_what_belongs_to_no_run_folder_is_passed_over(fake, path):
    fake.sets[REPO] = {path: b"x", "a/record.json": b"{}", "a/config.yaml": b"{}"}
    _, runs = hub.list_runs(REPO, images=True)
    assert runs == {"a": {"record.json": 2, "config.yaml": 2}}


def pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([print], dtype=object), allow_pickle=True)
    return stream.getvalue()


def saved(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("file", "data", "told"),
    [
        ("record.json", b"{}", "record.json"),
        ("record.json", b"[" * 100_000, "not valid JSON"),
        ("config.yaml", b"images: {num_images: 3}\nshard_size: 64\n", "is of another run"),
        ("config.yaml", b"!!python/object/apply:os.system [ls]", "config.yaml"),
        ("labels.npy", pickled(), "no array of numbers"),
        ("labels.npy", saved(np.zeros(3, np.int64)), "expected a class for each image"),
        ("grid.png", b"<svg onload=alert(1)>", "no PNG"),
        ("shards/000000.npy", saved(np.zeros((2, 32, 32, 3), np.uint8)), "damaged"),
        ("shards/000009.npy", b"", "damaged"),
    ],
)
def test_what_comes_is_checked_and_left_nowhere_when_it_is_wrong(fake, run, tmp_path, capsys, file, data, told):
    hub.push(run, REPO, images=True)
    fake.sets[REPO][f"{run.name}/{file}"] = data
    assert command("pull", REPO, "--images", "--out", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_another_than_was_listed_is_refused(fake, run, tmp_path, monkeypatch):
    hub.push(run, REPO)
    commit, runs = hub.list_runs(REPO)
    fake.sets[REPO][f"{run.name}/grid.png"] += b"x"
    with pytest.raises(ValueError, match="did not come as a file"):
        hub.pull(REPO, run.name, runs[run.name], tmp_path, commit=commit)

    def link(repo, path, *, local_dir, **more):
        (Path(local_dir) / path).parent.mkdir(parents=True, exist_ok=True)
        (Path(local_dir) / path).symlink_to(run / path.partition("/")[2])

    monkeypatch.setattr("huggingface_hub.hf_hub_download", link)
    with pytest.raises(ValueError, match="did not come as a file"):
        hub.pull(REPO, run.name, runs[run.name], tmp_path, commit=commit)
    with pytest.raises(ValueError, match="at most"):
        hub.pull(REPO, run.name, {"record.json": hub.LARGEST + 1}, tmp_path, commit=commit)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line(fake, run, tmp_path, capsys):
    hub.push(run, REPO)
    fake.sets[REPO]["other/record.json"] = fake.sets[REPO]["other/config.yaml"] = b"{}"
    for words, told in (
        (("push", run, "no-owner"), "OWNER/NAME"),
        (("push", run, "../x"), "OWNER/NAME"),
        (("push", tmp_path, REPO), "record.json"),
        (("pull", "me/nothing"), "me/nothing: 404 not found"),
        (("pull", REPO), f"expected one of: other, {run.name}"),
        (("pull", REPO, "third"), "'third' is not there"),
    ):
        assert command(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
