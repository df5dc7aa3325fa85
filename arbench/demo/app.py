"""The page itself: Gradio's controls around the studio. Imported where the extra "demo" is installed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from arbench.demo.choices import MOST_IMAGES
from arbench.demo.page import STYLE
from arbench.demo.serving import HOST, Application, OwnMachineOnly
from arbench.demo.studio import Studio, press

OWN = "own"
WELCOME = (
    '<div class="arbench"><p class="quiet">Choose, and press Draw. Steps, guidance and temperature that are left empty '
    "are each model's own; AR and PAR have no steps to choose.</p></div>"
)
LAYOUT = """
footer { display: none !important; }
.gradio-container { max-width: min(76rem, 100vw) !important; margin: auto; }
.gradio-container :is(main, .main, .wrap, .row, .column) { min-width: 0; max-width: 100%; }
.gradio-container .block { min-width: 0 !important; }
.gradio-container label > span { font-size: .8rem; }
#settings .block { padding: .5rem; }
@media (max-width: 45rem) {
  #columns { flex-direction: column; }
  #columns > * { min-width: 0 !important; width: 100%; }
}
.gradio-container .token { padding: 0 .35rem !important; font-size: .8rem; }
"""


def build_page(studio: Studio) -> Any:
    """The `gradio.Blocks` of the page."""
    with gr.Blocks(title="arbench", analytics_enabled=False) as page:
        gr.Markdown("## arbench\nToken by token: what is revealed so far, decoded as it comes; grey is not yet drawn.")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=1, min_width=280):
                inputs = _controls(studio)
            with gr.Column(scale=3, min_width=320):
                with gr.Row():
                    start = gr.Button("Draw", variant="primary", elem_id="draw", min_width=100)
                    stop = gr.Button("Stop", elem_id="stop", min_width=100)
                images = gr.HTML(WELCOME, elem_id="images")
                made = gr.HTML(elem_id="protocol")

        def show(*values: Any) -> Iterator[tuple[str, str]]:
            try:
                yield from press(studio, *values)
            except (ValueError, OSError) as error:
                raise gr.Error(str(error), print_exception=False) from None

        drawing = start.click(
            show, inputs, [images, made], show_progress="hidden", trigger_mode="once", api_visibility="private"
        )
        stop.click(None, cancels=drawing, api_visibility="private")
    return page


def _controls(studio: Studio) -> list[Any]:
    """The controls, in the order in which `press` takes their values."""
    first = next(iter(studio.models))
    kinds = gr.Radio(list(studio.models), value=first, label="Data", visible=len(studio.models) > 1, elem_id="data")
    models = gr.CheckboxGroup(studio.models[first], value=studio.chosen_first(first), label="Models", elem_id="models")
    classes = gr.Dropdown(
        studio.classes(first), value=studio.classes_first(first), multiselect=True, label="Classes", elem_id="classes"
    )

    def other_data(data: str) -> tuple[Any, Any]:
        return (
            gr.update(choices=studio.models[data], value=studio.chosen_first(data)[:1]),
            gr.update(choices=studio.classes(data), value=studio.classes_first(data)),
        )

    kinds.change(other_data, kinds, [models, classes], api_visibility="private")
    with gr.Row():
        per_class = gr.Number(1, label="Images a class", precision=0, minimum=1, maximum=MOST_IMAGES, min_width=110)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=110, elem_id="seed")
    with gr.Row(elem_id="settings"):
        steps, guidance, temperature = (
            gr.Textbox(label=label, placeholder=OWN, max_lines=1, min_width=76, elem_id=label.lower())
            for label in ("Steps", "Guidance", "Temperature")
        )
    slowly = gr.Checkbox(
        True, label="Slow motion", info="The time an image is told without the pauses.", elem_id="slowly"
    )
    return [kinds, models, classes, per_class, seed, steps, guidance, temperature, slowly]


def build_server(studio: Studio) -> Application:
    """The page as an ASGI application that answers to this machine's own names alone."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other site's name leads here
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"], primary_hue="blue")
    gr.mount_gradio_app(
        app,
        build_page(studio),
        path="",
        server_name=HOST,
        show_error=True,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=False,
        run_history=False,
        footer_links=[],
        max_file_size=1,
        theme=theme,
        css=LAYOUT + STYLE,
    )
    return OwnMachineOnly(app)


def serve(server: Application, listener: socket.socket) -> None:
    """Serve what `build_server` gave until Ctrl-C. Nothing is sent anywhere, and only this machine is answered."""
    config = uvicorn.Config(server, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
