"""What reaches the terminal: one line for Ctrl-C at any moment, ASCII where it must be, no control characters."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from arbench import cli, start
from arbench.machine.plain_text import one_printable_line, plain_stream, printable


def run_main(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["arbench", *arguments])
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # `main` replaces them
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_ctrl_c_while_modules_are_imported(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "click_errors", interrupted)  # the first that imports anything
    assert run_main(monkeypatch, "table") == 130
    assert capsys.readouterr().err == "arbench: interrupted; nothing half-written was left behind\n"


def test_nothing_is_imported_before_ctrl_c_is_ours():
    code = "import sys; before = set(sys.modules); import arbench.start; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"arbench", "arbench.start", "__future__"}


def test_ctrl_c_while_the_command_line_is_imported(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "arbench.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "arbench.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as stop:
        start.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "arbench: interrupted; nothing half-written was left behind\n"


def test_ctrl_c_of_a_command_that_has_begun(tmp_path):
    """As soon as the package's own code runs, which the line on standard output tells."""
    # A shell's background job, as these tests may be, is born with the signal ignored.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; import arbench.cli, sys; print(1, flush=True); sys.argv[1:] = ['doctor']; arbench.cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    # Before `main` is entered Python itself ends the process, by the same signal and with its own words.
    assert process.returncode in (130, -signal.SIGINT)
    if process.returncode == 130:
        assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_arrows_gets_ascii(encoding):
    raw = io.BytesIO()
    stream = plain_stream(io.TextIOWrapper(raw, encoding=encoding))
    print("FID ↓ | 3.1 ± 0.2 | 2 × cpu → é 漢", file=stream, flush=True)
    text = raw.getvalue().decode(encoding)
    assert text.startswith("FID v | 3.1 ")
    assert text.rstrip().endswith("?")
    assert "->" in text


def test_a_run_is_told_on_an_ascii_terminal(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "arbench", "table", "digits/par-table4"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert b"FID v" in done.stdout


def test_nothing_that_a_terminal_obeys_is_written():
    raw = io.BytesIO()
    stream = plain_stream(io.TextIOWrapper(raw, encoding="utf-8"))
    print("a\x1b[31mred\x07\r\u202eabc\u2028d\ud800\x9b e\n\tkept é ↓", file=stream, flush=True)
    shown = raw.getvalue().decode()
    assert shown == "a�[31mred��\ufffdabc�d�� e\n\tkept é ↓\n"
    assert printable("plain ↓ text") == "plain ↓ text"
    assert one_printable_line("two\nlines\x1b") == "two lines�"


def test_an_error_line_shows_no_control_characters(capsys):
    assert cli.fail("model 'a\x1b[2Jb'\nnext") == 2
    assert capsys.readouterr().err == "arbench: error: model 'a�[2Jb' next\n"


@pytest.mark.parametrize("argument", ["/tmp/\udcff\udcfe", "a\x1b[2J"])
def test_an_argument_that_no_file_could_hold(capsys, argument):
    assert cli.run_command(["run", "--out", argument]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not printable text in UTF-8" in line
    assert line.isprintable()


def test_memory_that_is_not_there_is_one_line(monkeypatch, capsys):
    def invoke(_):
        raise MemoryError("Unable to allocate 7.28 TiB")

    monkeypatch.setattr(cli, "invoke", invoke)
    assert cli.run_command(["table"]) == 2
    assert capsys.readouterr().err == "arbench: error: not enough memory for that: Unable to allocate 7.28 TiB\n"
