"""What happens when the button is pressed: models are loaded and draw one after another; Gradio is not needed here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from arbench.demo.choices import IMAGENET, Wish, classes_of, first_models, models_here, settings_for
from arbench.demo.drawing import Frame, draw
from arbench.demo.page import gallery, protocol
from arbench.generators.methods import get_preset
from arbench.images import imagenet
from arbench.machine.precision import AUTO
from arbench.runs.models import Parts, load_parts
from arbench.settings import CFG_SCALE, NUM_ITER, TEMPERATURE, Setting

FILM_SECONDS = 2.5  # how long a drawing in slow motion takes at least
IMAGENET_CLASSES = (207, 360, 388, 113, 355, 980, 323, 979)  # MAR's and LlamaGen's demos


class Studio:
    """The models that are here, loaded when they are first asked for."""

    def __init__(self, device: torch.device, dtype: str = AUTO) -> None:
        """Raises ValueError where no model has its weights on this machine."""
        self.device, self.dtype = device, dtype
        self.models = models_here()
        if not self.models:
            raise ValueError(
                "no model has its weights on this machine; expected one (arbench doctor says how to get it)"
            )
        self._loaded: dict[str, Parts] = {}
        self._drawn: set[str] = set()

    def chosen_first(self, data: str) -> list[str]:
        """What is chosen before anybody chooses: one model a method."""
        return first_models(self.models[data])

    def classes(self, data: str) -> list[tuple[str, int]]:
        """(name, number) of the classes that the models of `data` draw."""
        config = get_preset(self.models[data][0]).config
        return classes_of(data, config.get("num_classes", imagenet.NUM_CLASSES if data == IMAGENET else 10))

    def classes_first(self, data: str) -> list[int]:
        """The classes that are chosen before anybody chooses."""
        return list(IMAGENET_CLASSES) if data == IMAGENET else [number for _, number in self.classes(data)][:10]

    def parts(self, model: str) -> Parts:
        """Generator and tokenizer of `model`, which must be here."""
        if model not in self._loaded:
            self._loaded[model] = load_parts(model=model, device=self.device, dtype=self.dtype)
        return self._loaded[model]

    def show(self, data: str, models: Sequence[str], wish: Wish, *, slowly: bool = False) -> Iterator[tuple[str, str]]:
        """(images, protocol) as HTML, again and again while `models` draw what is wished, one after another.

        `slowly` gives every drawing at least FILM_SECONDS. Raises ValueError for no model, one of other data or a wish
        that a model cannot fulfil.
        """
        if not models:
            raise ValueError("no model is chosen; expected at least one")
        for model in models:
            if model not in self.models[data]:
                raise ValueError(
                    f"model {model!r} is none of {data} that is here; expected {', '.join(self.models[data])}"
                )
        self._loaded = {name: parts for name, parts in self._loaded.items() if name in models}
        self._drawn &= set(models)
        for model in models:
            settings_for(self.parts(model), wish)  # what one of them cannot fulfil is told before any draws
        names = {number: name for name, number in self.classes(data)}
        captions = [names[label] for label in wish.images]
        done: list[Frame] = []
        for model in models:
            for frame in paced(draw(self.parts(model), wish, warm=model in self._drawn), slowly):
                records = [shown.record for shown in (*done, frame) if shown.record is not None]
                yield gallery([*done, frame], captions), protocol(records)
            self._drawn.add(model)
            done.append(frame)


def paced(frames: Iterator[Frame], slowly: bool) -> Iterator[Frame]:
    """`frames`, each at least its share of FILM_SECONDS after the one before where they come `slowly`."""
    last = -FILM_SECONDS
    for frame in frames:
        if slowly:
            time.sleep(max(0.0, last + FILM_SECONDS / frame.steps - time.monotonic()))
        last = time.monotonic()
        yield frame


def press(
    studio: Studio,
    data: str,
    models: list[str],
    classes: list[int],
    per_class: int | None,
    seed: int | None,
    steps: str,
    guidance: str,
    temperature: str,
    slowly: bool,
) -> Iterator[tuple[str, str]]:
    """What the button does with the values of the controls; an empty text is the model's own setting.

    Raises ValueError as `Studio.show` does, and where a text is no number.
    """
    wish = Wish(
        labels=classes,
        per_class=1 if per_class is None else per_class,
        seed=0 if seed is None else seed,
        steps=_read(NUM_ITER, steps),
        cfg_scale=_read(CFG_SCALE, guidance),
        temperature=_read(TEMPERATURE, temperature),
    )
    yield from studio.show(data, models, wish, slowly=slowly)


def _read(setting: Setting, text: str) -> Any:
    return setting.read(text.strip()) if text.strip() else None
