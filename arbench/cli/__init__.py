"""The command line: parse and call. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import importlib
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from arbench.machine.plain_text import ERRORS, one_printable_line, plain_stream

TYPE_CHECKING = False  # not from `typing`: Ctrl-C is ours only once this module is imported
if TYPE_CHECKING:
    from typing import Any, TextIO

    import typer
    from typer.models import CommandInfo, TyperInfo

USER_ERRORS = (ValueError, OSError)
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
UNKNOWN_COMMAND = re.compile(r"No such command '(.*?)'")  # as Click says it
NO_NUMBER = re.compile(r"\bvalid (integer|number|float)\b|Input should be ((?:greater|less) than .*)")  # as Typer does
EXAMPLE = re.compile(r"([A-Z_]+=\S+ )*(arbench|torchrun) ")
EXAMPLE_WIDTH = 74  # characters, of the 78 that Click's help takes of a terminal
COMPLETE = "_ARBENCH_COMPLETE"  # set by the shell that asks what may follow, as Click has it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports for other programs

# Each module registers its commands on the app it is given: `def register(app: typer.Typer) -> None`.
COMMAND_MODULES = (
    "run",
    "sample",
    "demo",
    "evaluate",
    "reproduce",
    "table",
    "bench",
    "train",
    "tokenizers",
    "models",
    "weights",
    "share",
    "doctor",
)


def build_app() -> Any:
    """The Typer application with every command group registered."""
    import typer

    app = typer.Typer(
        name="arbench",
        help="Image generation by AR, PAR, MAR and ARPG, one sampler, one evaluator: FID and IS against wall-clock.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version and exit.", is_eager=True, callback=print_version
        ),
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    ) -> None:
        pass

    for name in COMMAND_MODULES:
        importlib.import_module(f"arbench.cli.{name}").register(app)
    keep_examples(app)
    return app


def keep_examples(app: typer.Typer) -> None:
    """Let the examples of every command be shown as they can be copied, broken into lines only where a shell allows."""
    infos: list[CommandInfo | TyperInfo] = [*app.registered_commands]
    if app.registered_callback is not None:
        infos.append(app.registered_callback)
    for info in infos:
        if isinstance(info.epilog, str):
            info.epilog = "\n\n".join(_example(part) for part in info.epilog.strip().split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            keep_examples(group.typer_instance)


def _example(part: str) -> str:
    """A paragraph of an epilog; a command line in it is kept from Click's wrapping, its lines joined by backslashes."""
    line = " ".join(part.split())
    if not EXAMPLE.match(line):
        return line
    lines = textwrap.wrap(line, EXAMPLE_WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\b\n" + " \\\n".join(lines)


def print_version(asked: bool) -> None:
    """`--version`: print it and stop, before a command is looked for."""
    if asked:
        import typer

        from arbench import __version__

        print(f"arbench {__version__}")
        raise typer.Exit


def fail(message: str) -> int:
    """Print the one line a user sees for a mistake and return the exit code."""
    line = one_printable_line(str(message)) or "unknown error"
    print(f"arbench: error: {line}", file=sys.stderr)
    return EXIT_USER_ERROR


def interrupted(detail: str = "") -> int:
    """Print the one line of a Ctrl-C and return the exit code."""
    start = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
    print(f"{start}arbench: interrupted; {detail or 'nothing half-written was left behind'}", file=sys.stderr)
    return EXIT_INTERRUPTED


def run_command(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    import typer

    usage_error, shows_help = click_errors()
    arguments = list(arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    for argument in arguments:
        if not argument.isprintable():  # files and records could not hold it either
            return fail(f"argument {argument!r} is not printable text in UTF-8")
    try:
        with one_line_warnings():
            result = invoke(arguments)
        sys.stdout.flush()  # a full disk behind it is told here, not while Python ends
    except typer.Exit as stop:
        return stop.exit_code
    except shows_help as usage:
        print(usage.format_message())
        return EXIT_USER_ERROR
    except (typer.Abort, KeyboardInterrupt) as stop:
        return interrupted(str(stop))
    except usage_error as usage:
        return fail(explain_usage(usage, arguments))
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        drop_output()
        return EXIT_BROKEN_PIPE
    except USER_ERRORS as error:
        if debug:
            raise
        if getattr(error, "filename", "") is None:  # of a stream, which is this one where it cannot be flushed
            drop_output()
        return fail(describe(error))
    except SystemExit as stop:  # of a plug-in: nothing of ours calls it
        return fail(f"a plug-in ended the command with sys.exit({stop.code!r}); it is unfinished")
    except MemoryError as error:
        return fail(f"not enough memory for that: {error}")
    return result if isinstance(result, int) else 0


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Within it arbench's own warnings are one line without a place in the code; others' stay as they are."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if category.__module__.partition(".")[0] == "arbench":
                print(f"arbench: warning: {message}", file=sys.stderr)
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield


def invoke(arguments: list[str]) -> Any:
    """Parse and call. Not Typer's own `__call__`, which swallows what a KeyboardInterrupt has to say."""
    import typer

    command = typer.main.get_command(build_app())
    with command.make_context("arbench", arguments) as context:
        return command.invoke(context)


def click_errors() -> tuple[Any, Any]:
    """Click's classes for a usage error and for "no arguments, so here is the help" (older ones lack the second).

    They are found through Typer, because newer releases of it bring their own copy of Click.
    """
    import typer

    usage_error = typer.BadParameter.__mro__[2]  # BadParameter < UsageError < ClickException
    module = importlib.import_module(usage_error.__module__)
    return usage_error, getattr(module, "NoArgsIsHelpError", ())


def explain_usage(usage: Any, arguments: Sequence[str] = ()) -> str:
    """One line for a usage error, with the value; an unknown command gets the nearest and the list, at every level."""
    unknown = UNKNOWN_COMMAND.match(usage.message)
    if unknown is None or usage.ctx is None:
        return explain_number(usage, arguments) or usage.format_message()
    from arbench.registry import unknown_name

    of_group = usage.ctx.command_path.removeprefix("arbench").strip()
    return str(unknown_name(f"command {of_group}".strip(), unknown[1], usage.ctx.command.list_commands(usage.ctx)))


def explain_number(usage: Any, arguments: Sequence[str]) -> str:
    """One line for what is no number, or out of range, with its value, which newer Typers leave out; else nothing."""
    wrong = NO_NUMBER.search(usage.message)
    given = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, joined, value = argument.partition("=")
        if option in getattr(getattr(usage, "param", None), "opts", ()):
            given = f"{option} {(value if joined else following)!r}"  # the last one counts
    if not wrong or not given:
        return ""
    return f"{given}: expected a {'whole ' if wrong[1] == 'integer' else ''}number {wrong[2] or ''}".rstrip()


def drop_output() -> None:
    """Throw away what standard output cannot take, or Python would complain of it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def describe(error: Exception) -> str:
    """One line for an exception; an `OSError` is told with its path, a full disk with what is safe."""
    from arbench.machine.files import FULL, NoSpaceError

    if isinstance(error, OSError) and error.errno in FULL and not isinstance(error, NoSpaceError):
        place = f"in {os.path.dirname(error.filename) or '.'}" if error.filename else "where the output goes"
        return f"no space left {place}: what was finished before is whole"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def complete() -> int:
    """Tell the shell that set COMPLETE what may follow (`--install-completion` makes it ask), and return its code."""
    import typer

    command = typer.main.get_command(build_app())
    return command.main(prog_name="arbench", standalone_mode=False) or 0


def main() -> None:
    """Entry point of the `arbench` command."""
    # PyTorch's threads spin while they wait, and so stall each other on a busy machine, up to a hundredfold.
    # Read once, when PyTorch is first imported; the user's own setting wins.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.stdout, sys.stderr = plain_stream(sys.stdout), _forgiving(sys.stderr)
        code = complete() if COMPLETE in os.environ else run_command(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are imported
        code = interrupted()
    if code:
        sys.exit(code)


def _forgiving(stream: TextIO) -> TextIO:
    """Standard error keeps its control characters, for progress bars; what its encoding lacks becomes ASCII."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=ERRORS)
    return stream


__all__ = ["build_app", "main", "run_command"]
