"""`arbench weights`: list, get, verify, convert."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from arbench.cli import weights

PARITY = Path(__file__).parent / "parity"
MAR = PARITY / "mar" / "checkpoint-last.pth"
Command = Callable[..., str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run `arbench ARGUMENTS` with an empty weights folder; gives standard output, raises what the command raises."""
    monkeypatch.setenv("ARBENCH_WEIGHTS", str(tmp_path / "home"))
    app = typer.Typer()
    app.callback()(lambda: None)
    weights.register(app)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A local server in the Hub's place; gives the folder that it serves."""
    folder = tmp_path / "hub"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("arbench.generators.cards.HUB_MIRRORS", ())
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_get_list_and_verify(command: Command, hub: Path, tmp_path: Path) -> None:
    served = hub / "jadechoghari" / "mar" / "resolve" / "main"
    served.mkdir(parents=True)
    content = (PARITY / "mar" / "model.safetensors").read_bytes()
    (served / "mar-base.safetensors").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()

    listed = command("weights")
    assert "mar-base.safetensors" in listed
    assert "none stated (all rights reserved)" in listed
    assert "yes" not in listed
    assert "par-xl-4x, par-xxl-4x, par-3b-4x, par-3b-16x: the authors state no licence" in listed
    sizes = {line.split()[0]: line for line in listed.splitlines() if line}
    assert "~12.4 GB" in sizes["ar-3b-384"]  # 3.1 billion float32 numbers
    assert "~" not in sizes["kl16"]

    out = command("weights", "get", "mar-b")
    assert f"downloaded and verified: {tmp_path / 'home' / 'mar-base.safetensors'} (1.2 MB, SHA-256 {sha256})" in out
    assert "licence: MIT" in out
    assert "already here and unchanged" in command("weights", "get", "mar-b")
    assert next(line for line in command("weights").splitlines() if line.startswith("mar-b ")).split()[1] == "yes"

    out = command("weights", "verify", "mar-b")
    assert f"sha256     {sha256} (as recorded)" in out
    assert "holds      92 tensors, 297,760 values, float32  (looked into)" in out
    assert "family     mar" in out
    assert "encoder_width 64" in out

    with pytest.raises(OSError, match="answered HTTP 404 File not found"):
        command("weights", "get", "par-3b-4x")


def test_a_truncated_download_is_not_kept(command: Command, hub: Path, tmp_path: Path) -> None:
    served = hub / "FoundationVision" / "LlamaGen" / "resolve" / "main"
    served.mkdir(parents=True)
    content = (PARITY / "ar" / "model.pt").read_bytes()
    (served / "c2i_B_256.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"gave a broken file: .*c2i_B_256\.pt\.part: truncated torch checkpoint"):
        command("weights", "get", "ar-b")
    assert list((tmp_path / "home").iterdir()) == []


def test_verify_tells_a_changed_file(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "home" / "mar-base.safetensors"
    path.parent.mkdir()
    path.write_bytes((PARITY / "mar" / "model.safetensors").read_bytes())
    path.with_name(f"{path.name}.sha256").write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.raises(ValueError, match=f"changed since its download: SHA-256 is .*, expected {'0' * 64}"):
        command("weights", "verify", "mar-b")


def test_verify_tells_weights_that_are_no_numbers(command: Command, tmp_path: Path) -> None:
    tensors = load_file(PARITY / "mar" / "model.safetensors")
    tensors["mask_token"][0, 0, :3] = float("nan")
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors: 3 values are NaN or infinite"):
        command("weights", "verify", tmp_path / "x.safetensors")


def test_convert_and_verify(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "x.pdparams"
    assert command("weights", "convert", MAR, target).startswith(f"{target}: mar weights of {MAR} (1.2 MB)")
    assert f"file       {target} (1.2 MB, pdparams)" in command("weights", "verify", target)
    with pytest.raises(ValueError, match="is there already"):
        command("weights", "convert", MAR, target)
    command("weights", "convert", MAR, target, "--force", "--which", "raw")
    told = command("weights", "verify", MAR)
    assert "'model_ema': 92 tensors" in told
    assert 'loads as   no preset; arbench.load_generator("mar", weights=..., heads=...)' in told
    told = command("weights", "verify", PARITY / "ar" / "model.pt")
    assert 'arbench.load_generator("ar", weights=..., heads=..., grid=...)' in told


def test_verify_of_a_tokenizer(command: Command) -> None:
    path = PARITY / "kl_mar" / "kl16.ckpt"
    out = command("weights", "verify", path)
    assert "family     kl16" in out
    assert "decoder_attention False" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "mar-b"), "mar-b is not on this machine: arbench weights get mar-b"),
        (("verify", "mar-bb"), "unknown file or weights card 'mar-bb'; did you mean 'mar-b'"),
        (("get", "par-3b-8x"), "unknown weights card 'par-3b-8x'; did you mean 'par-3b-"),
        (
            ("get", "kl16"),
            r"kl16 has no direct address: download kl16\.ckpt by hand from https://github\.com/LTH14/mar",
        ),
    ],
)
def test_mistakes_are_named(command: Command, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        command("weights", *arguments)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_os_error(command: Command) -> None:
    with pytest.raises(FileNotFoundError):
        command("weights", "verify", "no-such-file.pth")


@pytest.mark.parametrize("name", ["get", "verify", "convert"])
def test_help_shows_an_example(command: Command, name: str) -> None:
    assert f"arbench weights {name}" in command("weights", name, "--help")
