"""`arbench demo`: a page on this machine that draws images while one looks."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from arbench.cli import options

EXAMPLES = """Examples:

  arbench demo

  arbench demo --port 8000 --device cpu
"""

Port = Annotated[Optional[int], typer.Option("--port", help="Where it is served; the first free one from 7860 on.")]


def register(app: typer.Typer) -> None:
    """Add `demo` to the app."""
    app.command("demo", epilog=EXAMPLES)(demo)


def demo(port: Port = None, device: options.Device = "auto", dtype: options.Precision = "auto") -> None:
    """Open a page on 127.0.0.1 that draws with every model whose weights are here; pip install 'arbench[demo]'."""
    from arbench.demo.serving import HOST, open_port, require_gradio

    require_gradio()

    from arbench.demo.app import build_server, serve
    from arbench.demo.studio import Studio
    from arbench.machine.hardware import resolve_device

    studio = Studio(resolve_device(device), dtype)
    with open_port(port) as listener:
        server = build_server(studio)
        print(f"arbench demo: http://{HOST}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        serve(server, listener)
