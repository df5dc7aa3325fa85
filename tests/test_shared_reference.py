"""The digits that ship with the package are looked at once a process, whoever is scored against them."""

from __future__ import annotations

import pytest

from arbench.evaluation import metrics
from arbench.evaluation.features import CachedExtractor
from arbench.evaluation.metrics import evaluate
from arbench.evaluation.reference import open_reference
from arbench.images.data import open_data


@pytest.fixture
def extracted(monkeypatch):
    """The number of images of every extraction."""
    monkeypatch.setattr(metrics, "_extracted", {})
    counts, extract = [], CachedExtractor.extract

    def counted(self, images):
        counts.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(CachedExtractor, "extract", counted)
    return counts


def scored(images, reference, **options):
    told = []
    options = {"extractor": "digits-cnn", "metrics": ("fid",), **options}
    return evaluate(images, reference, progress=told.append, **options), sum(told)


def test_features_of_shipped_digits_are_extracted_once(extracted):
    images = next(iter(open_reference("digits-heldout").images.blocks()))[:30]
    (first, told), seen = scored(images, "digits-heldout"), sum(extracted)
    count = len(open_data("digits", split="heldout"))
    assert (told, seen) == (30 + count, 30 + count)
    extracted.clear()
    assert scored(images, "digits-heldout") == (first, told)
    assert sum(extracted) == 30


def test_what_else_is_scored_against_is_read_anew(extracted, tmp_path):
    reference = open_reference("digits-heldout")
    images = next(iter(reference.images.blocks()))[:30]
    scored(images, "digits-heldout")
    for other, options in [(reference, {}), ("digits-heldout", {"cache": tmp_path}), ("digits-train", {})]:
        extracted.clear()
        scored(images, other, **options)
        assert sum(extracted) > 30
