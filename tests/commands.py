"""The commands of one module as a test calls them."""

from __future__ import annotations

from collections.abc import Callable

import typer
from typer.testing import CliRunner


def commands_of(register: Callable[[typer.Typer], object], *, stream: str = "output") -> Callable[..., str]:
    """Call what `register` registers with arguments; returns what was printed ("stdout" alone, or all "output").

    An error that a command raises comes out as it is.
    """
    app = typer.Typer()
    register(app)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return str(getattr(result, stream))

    return run
