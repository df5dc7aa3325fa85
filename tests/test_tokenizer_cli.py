"""`arbench tokenizers` as a user types it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from arbench import __version__
from arbench.cli import run_command


@pytest.fixture
def arbench(capsys, tmp_path, monkeypatch):
    """One command line in this process, in an empty folder, with no weights on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path / "weights"))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(["tokenizers", *arguments])
        return code, *capsys.readouterr()

    return run


def test_list(arbench):
    code, out, _ = arbench()
    assert code == 0
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
    assert rows["digits-kl"].startswith(f"continuous 4 4 channels arbench {__version__} shipped")
    fetched = f"arbench {__version__} not here: arbench weights get llamagen-vq"
    assert rows["llamagen-vq"] == f"discrete 16 16384 codes of 8 {fetched}"
    assert "kl16.ckpt by hand" in rows["kl16"]


def test_check(arbench):
    code, out, err = arbench("check", "digits-vq", "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.count("passed") == 11
    assert "codebook bounds   passed   ids outside are refused" in out


def test_check_with_random_weights(arbench):
    code, out, _ = arbench("check", "digits-kl", "--tokenizer-weights", "random", "--device", "cpu", "--size", "16")
    assert code == 0
    assert "digits-kl, weights random, 3 images of 16 px" in out
    assert "round trip        skipped  random weights" in out


def test_reconstruct(arbench, tmp_path):
    options = ("--num-images", "30", "--device", "cpu", "--out", "pictures/vq.png")
    code, out, err = arbench("reconstruct", "digits-vq", *options)
    assert (code, err) == (0, "")
    assert "num_images  30" in out
    found = json.loads((tmp_path / "pictures" / "vq.json").read_text())
    assert found["data"] == found["metric_protocol"]["reference"] == "digits-heldout"
    assert found["psnr"] > 30
    picture = np.asarray(Image.open(tmp_path / "pictures" / "vq.png"))
    assert picture.shape[0] >= 3 * 64  # three rows


def test_reconstruct_a_folder(arbench, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a/1", "a/2", "b/1"):
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    options = ("--data", "data", "--size", "32", "--extractor", "none", "--device", "cpu")
    code, out, err = arbench("reconstruct", "digits-kl", *options)
    assert (code, err) == (0, "")
    assert "rfid" not in out
    assert json.loads((tmp_path / "reconstruct-digits-kl.json").read_text())["num_images"] == 3


def test_stats(arbench):
    code, out, err = arbench("stats", "digits-kl", "--device", "cpu", "--batch-size", "256")
    assert (code, err) == (0, "")
    last = out.splitlines()[-1].split()
    # the shipped scale was measured on these images; it is printed with four digits
    assert float(last[3]) == pytest.approx(float(last[-1].rstrip(")")), abs=2e-4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("check", "kl61"), "unknown tokenizer 'kl61'; did you mean 'kl16'?"),
        (
            ("reconstruct", "kl16"),
            "'kl16': no weights on this machine; expected --tokenizer-weights FILE (download",
        ),
        (("stats", "llamagen-vq"), "FILE (arbench weights get llamagen-vq)"),
        (("stats", "digits-kl", "--num-images", "100000"), "--num-images 100000: digits-train has 1438 images"),
        (("stats", "digits-kl", "--data", "nowhere"), "nowhere: no such folder"),
        (("check", "digits-kl", "--tokenizer-weights", "absent.pt"), "absent.pt: No such file"),
        (("check", "digits-kl", "--device", "cudo"), "unknown device 'cudo'"),
        (("reconstruct", "digits-kl", "--extractor", "inceptoin"), "did you mean 'inception'?"),
        (("reconstruct", "digits-kl", "--out", "x.txt"), "unknown suffix of --out '.txt'"),
        (("reconstruct", "digits-kl", "--size", "30"), "images have shape (16, 3, 30, 30)"),
    ],
)
def test_mistakes(arbench, arguments, told):
    code, _, err = arbench(*arguments)
    assert code == 2
    assert err.startswith("arbench: error: ")
    assert err.count("\n") == 1
    assert told in err
