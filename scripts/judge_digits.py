#!/usr/bin/env python3
"""Judge the shipped digits generators with more than the extractor that scores them.

    python scripts/judge_digits.py [--models mar-digits,…] [--seeds 3] [--num-images 500] [--set cfg_scale=2.0 …]

One line a model and seed:
- FID and label accuracy with the digits classifier, against the held-out images;
- SVM agreement: a support vector machine trained on the 8×8 originals reads the image, averaged down to 8×8, as asked;
- variety: mean pixel distance between two images of a class, divided by that of real digits;
- novelty: median distance to the nearest training image, divided by that of held-out digits (copies are near 0);
- seconds to draw and decode.
Below them the floor (training images, drawn anew for each seed) and the ceiling (Gaussian noise with each class's mean
and deviation at every pixel).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial.distance import cdist, pdist
from sklearn.svm import SVC

import arbench
from arbench.evaluation.extractors import load_extractor
from arbench.evaluation.scores import label_accuracy, precision_recall
from arbench.evaluation.statistics import FrechetStatistics
from arbench.generators.methods import get_preset
from arbench.images.data import open_data
from arbench.images.pixels import to_uint8
from arbench.runs.labels import make_labels

NUM_CLASSES = 10
LEVELS = 255 / 16  # the originals hold 0..16
SVM_GAMMA = 0.001  # scikit-learn's own digits example
BATCH = 125
COLUMNS = ("fid", "label_accuracy", "svm", "variety", "novelty", "precision", "recall", "seconds")

Draw = Callable[[int, np.ndarray], np.ndarray]  # (seed, labels) -> uint8 (N, 32, 32, 3)


class Judge:
    """Everything that depends on the real data alone, computed once."""

    def __init__(self) -> None:
        self.train, self.heldout = open_data("digits"), open_data("digits", split="heldout")
        self.extractor = load_extractor("digits-cnn")
        self.heldout_features = self.extractor.extract(self.heldout.images()).features
        originals = open_data("digits", size=8)
        self.svm = SVC(gamma=SVM_GAMMA).fit(self._levels(originals.images()), originals.labels)
        self.train_pixels = self._grey(self.train.images())
        self.real_spread = self._spread(self.train_pixels, self.train.labels)
        self.real_distance = self._nearest(self._grey(self.heldout.images()))

    def scores(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """All columns but the time, for uint8 images (N, 32, 32, 3) that were asked to be `labels` (N,)."""
        found = self.extractor.extract(images)
        reference = FrechetStatistics.of(self.heldout_features)
        averaged = images.reshape(len(images), 8, 4, 8, 4, 3).mean(axis=(2, 4))
        coverage = precision_recall(self.heldout_features, found.features)
        return {
            "fid": FrechetStatistics.of(found.features).distance(reference),
            "label_accuracy": label_accuracy(found.logits, labels),
            "svm": float((self.svm.predict(self._levels(averaged)) == labels).mean()),
            "variety": self._spread(self._grey(images), labels) / self.real_spread,
            "novelty": self._nearest(self._grey(images)) / self.real_distance,
            "precision": coverage.precision,
            "recall": coverage.recall,
        }

    def training_images(self, seed: int, labels: np.ndarray) -> np.ndarray:
        """Real training images of the asked-for classes, without repetition: the floor."""
        random = np.random.default_rng(seed)
        chosen = np.empty(len(labels), dtype=np.int64)
        for label in range(NUM_CLASSES):
            places = np.flatnonzero(labels == label)
            chosen[places] = random.permutation(np.flatnonzero(self.train.labels == label))[: len(places)]
        return self.train.images(chosen)

    def gaussian_images(self, seed: int, labels: np.ndarray) -> np.ndarray:
        """Independent Gaussian pixels with the mean and deviation of the class: the ceiling."""
        random = np.random.default_rng(seed)
        images = np.empty((len(labels), 32, 32, 3), dtype=np.uint8)
        for label in range(NUM_CLASSES):
            real = self.train_pixels[self.train.labels == label]
            places = np.flatnonzero(labels == label)
            drawn = random.normal(real.mean(0), real.std(0), (len(places), real.shape[1]))
            images[places] = drawn.clip(0, 255).round().reshape(-1, 32, 32, 1)
        return images

    def _nearest(self, pixels: np.ndarray) -> float:
        return float(np.median(cdist(pixels, self.train_pixels).min(axis=1)))

    @staticmethod
    def _grey(images: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) -> (N, H·W) float64."""
        return images.mean(axis=3, dtype=np.float64).reshape(len(images), -1)

    @staticmethod
    def _levels(images: np.ndarray) -> np.ndarray:
        """(N, 8, 8, 3) of 0..255 -> (N, 64) of 0..16, as the originals are."""
        return images.mean(axis=3, dtype=np.float64).reshape(len(images), -1) / LEVELS

    @staticmethod
    def _spread(pixels: np.ndarray, labels: np.ndarray) -> float:
        """Mean distance between two images of a class, averaged over the classes."""
        return float(np.mean([pdist(pixels[labels == label]).mean() for label in np.unique(labels)]))


def sampler(model: str, weights: str | None, tokenizer_weights: str | None, sampling: dict) -> Draw:
    """Draw images with a preset at its default settings, changed by `sampling`."""
    preset = get_preset(model)
    generator = arbench.load_generator(model, weights=weights)
    tokenizer = arbench.load_tokenizer(preset.tokenizer, weights=tokenizer_weights)
    settings = {**preset.sampling, **sampling}

    def draw(seed: int, labels: np.ndarray) -> np.ndarray:
        images = []
        for start in range(0, len(labels), BATCH):
            ids = np.arange(start, min(start + BATCH, len(labels)))
            tokens = arbench.generate(generator, labels[ids], seed=seed, image_ids=ids, **settings)
            images.append(to_uint8(tokenizer.decode(tokens)))
        return np.concatenate(images)

    return draw


def report(judge: Judge, name: str, draw: Draw, seeds: int, num_images: int) -> None:
    """Print a line for each seed, then mean and standard deviation."""
    labels = make_labels(num_images, NUM_CLASSES)
    rows = []
    for seed in range(seeds):
        began = time.perf_counter()
        images = draw(seed, labels)
        seconds = time.perf_counter() - began
        rows.append({**judge.scores(images, labels), "seconds": seconds})
        print_row(f"{name} seed {seed}", rows[-1])
    if seeds > 1:
        for label, reduce in (("mean", np.mean), ("std", np.std)):
            print_row(f"{name} {label}", {column: float(reduce([row[column] for row in rows])) for column in COLUMNS})


def print_row(name: str, row: dict[str, float]) -> None:
    print(f"{name:26s}" + "".join(f"{row[column]:15.3f}" for column in COLUMNS), flush=True)


def parse_setting(text: str) -> tuple[str, float | int | str]:
    """`name=value` as a sampling setting, whole numbers as int."""
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        return name, value
    return name, number if "." in value or "e" in value else int(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    models = "ar-digits,par-digits,mar-digits,arpg-digits"
    parser.add_argument("--models", default=models, help="comma-separated presets")
    parser.add_argument("--weights", help="a file instead of the shipped weights (one model)")
    parser.add_argument("--tokenizer-weights", help="a file instead of the shipped tokenizer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-images", type=int, default=500)
    parser.add_argument("--set", nargs="*", default=[], type=parse_setting, metavar="NAME=VALUE")
    parser.add_argument("--no-bounds", action="store_true", help="leave floor and ceiling out")
    options = parser.parse_args()
    judge = Judge()
    print(" " * 26 + "".join(f"{column:>15s}" for column in COLUMNS))
    with torch.inference_mode():
        for model in options.models.split(","):
            draw = sampler(model, options.weights, options.tokenizer_weights, dict(options.set))
            report(judge, model, draw, options.seeds, options.num_images)
    if not options.no_bounds:
        report(judge, "floor: training images", judge.training_images, options.seeds, options.num_images)
        report(judge, "ceiling: Gaussian pixels", judge.gaussian_images, options.seeds, options.num_images)


if __name__ == "__main__":
    main()
