"""Extractors that go wrong in one way each, and one that knows classes."""

from moments import Moments


class Memberless:
    name = "moments-memberless"
    sha256 = "0" * 64

    def features(self, images):
        return images.mean(axis=(1, 2))


class Unmade(Moments):
    def __init__(self):
        raise RuntimeError("no licence file")


class Misshapen(Moments):
    width = 25

    def features(self, images):
        return images[:, 0, :7, 0]


class Picky(Moments):
    name = "moments-picky"

    def features(self, images):
        raise ValueError("expected 64x64")


class Failing(Moments):
    name = "moments-failing"

    def features(self, images):
        raise KeyError("quarter")


class Reading(Moments):
    """With logits of ten classes, made as a network with weights is."""

    name = "moments-reading"
    num_classes = 10

    def __init__(self, device):
        self.device = device

    @classmethod
    def load(cls, weights, device):
        return cls(device)

    def logits(self, features):
        return features[:, :10]
