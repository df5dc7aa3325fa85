"""A tokenizer without weights: the grey means of the four quadrants of each 4×4 block."""

from torch.nn import functional as F


class Quadrants:
    name = "quadrants"
    kind = "continuous"
    downsample = 4
    channels = 4
    vocab_size = None
    scale = 1.0

    def encode(self, images, *, rng=None):
        means = F.avg_pool2d(images.mean(dim=1, keepdim=True), 2)  # (B, 1, H/2, W/2)
        return self.scale * F.pixel_unshuffle(means, 2)  # (B, 4, H/4, W/4)

    def decode(self, tokens):
        means = F.pixel_shuffle(tokens / self.scale, 2)
        return F.interpolate(means, scale_factor=2.0, mode="nearest").expand(-1, 3, -1, -1)


class Memberless:
    """No `decode`, no `scale`."""

    name = "quadrants-memberless"
    kind = "continuous"
    downsample = 4
    channels = 4
    vocab_size = None

    def encode(self, images, *, rng=None):
        return images


class Misshapen(Quadrants):
    """Decodes to half the size."""

    name = "quadrants-misshapen"

    def decode(self, tokens):
        return F.pixel_shuffle(tokens, 2).expand(-1, 3, -1, -1)


class Failing(Quadrants):
    """Cannot be built."""

    name = "quadrants-failing"

    def __init__(self):
        raise RuntimeError("no licence file")
