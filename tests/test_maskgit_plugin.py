"""A stranger's method, really installed: trained, drawn, timed and reproduced by the same commands as ours."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from installed_plugins import install_plugin
from PIL import Image
from test_readme import parse

import arbench
from arbench.cli import run_command
from arbench.generators import methods
from arbench.images.data import open_data
from arbench.images.pixels import to_float
from arbench.report.record import load_record

PLUGIN = Path(__file__).parent / "plugins" / "maskgit"
HOW_TO = (Path(arbench.__file__).parent / "generators" / "README.md").read_text(encoding="utf-8")
Command = Callable[..., str]

TABLE = """\
base: digits
columns: [fid, label_accuracy]
defaults:
  method: maskgit
  model: maskgit-digits
  tokenizer: digits-vq
  tokenizer_weights: shipped
  weights: trained
  training: {steps: 2, batch_size: 16, views: 1}
  num_images: 4
  batch_size: 4
  metrics: [fid, label_accuracy]
rows:
  sure:   {sampling: {num_iter: 3, choice_temperature: 0.0}}
  chance: {base: sure, sampling: {choice_temperature: 9.5}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in as pip installs it, in a folder that only these tests see."""
    return install_plugin("maskgit", tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module")
def plugin(site: Path) -> Iterator[None]:
    """The plug-in as Python finds it while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield
    forget()


@pytest.fixture(scope="module")
def weights(plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a few steps on the digits, by the command."""
    out = tmp_path_factory.mktemp("train")
    few = ("--steps", "8", "--batch-size", "32", "--views", "1", "--device", "cpu", "--out", str(out))
    assert run_command(["train", "--model", "maskgit-digits", *few]) == 0
    return out / "maskgit-digits" / "maskgit-digits.safetensors"


@pytest.fixture
def command(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run one command line with the plug-in installed; what it prints, or the error line where it ends with 2."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        code = run_command(list(arguments))
        out, err = capsys.readouterr()
        assert code in (0, 2), err
        return out if code == 0 else err

    return run


def forget() -> None:
    """Let the next import find the plug-in anew."""
    for module in [name for name in sys.modules if name.startswith("arbench_maskgit")]:
        del sys.modules[module]


def only(folder: Path, name: str) -> Path:
    (found,) = folder.rglob(name)
    return found


def test_nothing_of_it_stands_in_arbench() -> None:
    package = Path(arbench.__file__).parent
    told = [path for path in package.rglob("*.py") if re.search("maskgit|choice_temperature", path.read_text(), re.I)]
    assert told == []


def test_its_models_are_listed_beside_ours(command: Command) -> None:
    line = next(line for line in command("models").splitlines() if line.startswith("maskgit-digits "))
    assert "digits-vq" in line
    assert line.endswith("--num-iter 8 --cfg-scale 2.0 --set choice_temperature=2.0")


def test_it_keeps_the_promises_of_a_generator(command: Command) -> None:
    told = command("models", "check", "maskgit-digits")
    assert "failed" not in told
    assert re.search(r"schedule +passed +64 tokens in 3 steps", told)


def test_training_lowers_its_loss(weights: Path) -> None:
    data = open_data("digits")
    images, labels = to_float(data.images(range(64))), torch.as_tensor(data.labels[:64])
    codes = arbench.load_tokenizer("digits-vq").encode(images)
    torch.manual_seed(0)
    fresh, trained = (arbench.load_generator("maskgit-digits", weights=file) for file in ("random", weights))
    before, after = (model.loss(codes, labels, rng=torch.Generator().manual_seed(1)) for model in (fresh, trained))
    assert after < before - 0.01


def test_a_run_keeps_its_setting_in_the_record_and_its_own_in_the_table(command: Command, weights: Path) -> None:
    short = ("--model", "maskgit-digits", "--weights", str(weights), "--num-iter", "4", "--num-images", "6")
    for temperature in ("0.5", "4.5"):
        command("run", *short, "--device", "cpu", "--set", f"choice_temperature={temperature}", "--out", temperature)
    records = [load_record(only(Path(folder), "record.json")) for folder in ("0.5", "4.5")]
    assert [record["sampling"]["choice_temperature"] for record in records] == [0.5, 4.5]
    assert {record["method"] for record in records} == {"maskgit"}
    assert records[0]["speed"]["steps"] == 4
    table = command("table", "0.5", "4.5", "--format", "csv")
    assert [row["choice_temperature"] for row in csv.DictReader(io.StringIO(table))] == ["0.5", "4.5"]
    shown = command("table", "0.5", "4.5", "--format", "md")
    assert "choice temperature" in shown
    assert "MaskGIT" in shown


def test_a_sample_depends_on_the_setting_and_repeats(command: Command, weights: Path) -> None:
    def drawn(name: str, *setting: str) -> bytes:
        model = ("--model", "maskgit-digits", "--weights", str(weights), "--labels", "3,7", "--per-class", "2")
        command("sample", *model, "--device", "cpu", "--out", name, *setting)
        return Image.open(name).tobytes()

    usual = drawn("usual.png")
    assert drawn("same.png", "--set", "choice_temperature=2") == usual
    assert drawn("other.png", "--set", "choice_temperature=40") != usual


def test_bench_tells_its_work(command: Command) -> None:
    fast = ("--batch-size", "2", "--repeats", "1", "--device", "cpu", "--num-iter", "2")
    out = command("bench", "--model", "maskgit-digits", *fast, "--set", "choice_temperature=4.5")
    result = json.loads(out.splitlines()[-1])
    assert result["sampling"]["choice_temperature"] == 4.5
    # 64 tokens are drawn in the first iteration, the 45 left in the second, each with and without the class.
    assert result["flops_per_image_by_phase"]["head"] == 2 * 2 * (64 + 45) * 96 * 256
    assert result["flops_per_image_by_phase"]["generator"] > result["flops_per_image_by_phase"]["head"]


def test_a_table_is_reproduced_training_included(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE)
    assert "can run" in command("reproduce", "mine.yaml")
    told = command("reproduce", "mine.yaml", "--yes", "--device", "cpu")
    assert "can run" not in told
    records = {load_record(path)["source"]["row"]: load_record(path) for path in tmp_path.rglob("record.json")}
    assert {name: record["sampling"]["choice_temperature"] for name, record in records.items()} == {
        "sure": 0.0,
        "chance": 9.5,
    }
    assert records["sure"]["weights"]["sha256"] == records["chance"]["weights"]["sha256"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("choice_temprature=1",), "unknown sampling setting 'choice_temprature'; did you mean 'choice_temperature'?"),
        (("choice_temperature=-1",), "choice_temperature -1.0: expected 0 (keep the surest) or more"),
        (("choice_temperature=hot",), "choice_temperature 'hot': expected float"),
        (("choice_temperature",), "--set choice_temperature: expected NAME=VALUE"),
        (("choice_temperature=1", "--set", "choice_temperature=2"), "choice_temperature is given twice"),
        (("num_iter=2", "--num-iter", "3"), "num_iter is given twice"),
    ],
)
def test_a_wrong_setting_is_one_line(command: Command, arguments: tuple[str, ...], told: str) -> None:
    err = command("sample", "--model", "maskgit-digits", "--weights", "random", "--set", *arguments)
    assert err.count("\n") == 1
    assert told in err


def test_a_setting_of_another_method_is_refused(command: Command) -> None:
    err = command("run", "--model", "ar-digits", "--set", "choice_temperature=1")
    assert "unknown sampling setting of this generator 'choice_temperature'" in err


def test_by_its_module_without_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that nobody installed is named as module:Name, its setting known all the same."""
    shutil.copytree(PLUGIN / "arbench_maskgit", tmp_path / "mine_maskgit")
    for file in (tmp_path / "mine_maskgit").glob("*.py"):
        code = file.read_text().replace("arbench_maskgit", "mine_maskgit").replace('"maskgit', '"mine')
        file.write_text(code.replace("choice_temperature", "mine_temperature"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(methods, "_given", {})
    monkeypatch.chdir(tmp_path)
    model = ("--model", "mine_maskgit:METHOD", "--weights", "random", "--num-iter", "2", "--device", "cpu")
    assert run_command(["sample", *model, "--set", "mine_temperature=1", "--labels", "1"]) == 0
    assert (tmp_path / "grid.png").is_file()


def test_all_is_drawn_and_the_surest_first(weights: Path) -> None:
    """With no chance in the choice the first tokens kept are those that one pass is surest of."""
    model = arbench.load_generator("maskgit-digits", weights=weights)
    ids = arbench.generate(model, [3, 7], num_iter=64, choice_temperature=0.0, temperature=0.0)
    assert ids.shape == (2, 8, 8)
    assert int(ids.max()) < 256
    labels, none = torch.tensor([3, 7]), torch.full((2, 64), 256)
    everywhere = torch.arange(64).expand(2, -1)
    with torch.inference_mode():
        logits = [model.output(model.hidden(none, label, everywhere)) for label in (labels, torch.full((2,), 10))]
        scale = 1 + (2.0 - 1) * 1 / 64  # linear guidance of scale 2, one of 64 tokens known after the step
        probability = (logits[1] + scale * (logits[0] - logits[1])).softmax(-1)
    surest = probability.amax(-1).argmax(-1)
    assert torch.equal(ids.flatten(1).gather(1, surest[:, None]), probability.argmax(-1).gather(1, surest[:, None]))


@pytest.mark.parametrize(("name", "code"), re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", HOW_TO, re.DOTALL))
def test_the_how_to_shows_what_is_installed(name: str, code: str) -> None:
    assert code in only(PLUGIN, name).read_text(encoding="utf-8")


def test_the_commands_of_the_how_to_are_those_that_are_run_here(plugin: None) -> None:
    (commands,) = re.findall(r"```bash\n(.*?)```", HOW_TO, re.DOTALL)
    assert len(commands.splitlines()) == 6
    for line in commands.splitlines():
        parse(shlex.split(line)[1:])
