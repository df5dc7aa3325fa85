"""The token cache: what it stores is what the tokenizer makes, whole shards only, a name for every setting."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from arbench.generators.recipe import Augmentation
from arbench.images.data import ImageData
from arbench.images.pixels import to_float
from arbench.machine.distributed import Processes
from arbench.tokenizer.load import scaled, unscaled
from arbench.training import cache_build
from arbench.training.cache import SPEC_NAME, TokenCache, shard_name
from arbench.training.cache_build import build_cache, describe_cache


class Codes:
    """Discrete tokens: the mean level of each 4x4 square."""

    name, kind, downsample, channels, vocab_size, scale = "codes", "discrete", 4, 1, 256, 1.0

    def encode(self, images, *, rng=None):
        pooled = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
        return ((pooled + 1) * 127.5).round().long()


class Moments:
    """Continuous tokens with a posterior whose deviation is an eighth."""

    name, kind, downsample, channels, vocab_size, scale = "moments", "continuous", 4, 3, None, 2.0

    def moments(self, images):
        mean = nn.functional.avg_pool2d(images, 4)
        return mean, torch.full_like(mean, 0.125)

    def encode(self, images, *, rng=None):
        return self.moments(images)[0] * self.scale


@pytest.fixture
def data():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    return ImageData("noise", np.arange(10) % 3, ["a", "b", "c"], lambda i: pixels[i])


def build(tokenizer, data, folder, **settings):
    return build_cache(tokenizer, data, describe_cache(tokenizer, data, **settings), folder, batch_size=4)


def test_codes_come_back_exactly(data, tmp_path):
    cache = build(Codes(), data, tmp_path)
    tokens = cache.tokens(torch.tensor([7, 0, 7]), torch.Generator())
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, Codes().encode(to_float(data.images([7, 0, 7]))))
    assert torch.equal(cache.labels, torch.from_numpy(data.labels))
    assert np.load(cache.folder / shard_name(0)).dtype == np.uint16


def test_moments_become_scaled_posterior_samples(data, tmp_path):
    cache = build(Moments(), data, tmp_path)
    indices = torch.arange(10).repeat(200)
    tokens = cache.tokens(indices, torch.Generator().manual_seed(0)) / 2.0
    assert tokens.dtype == torch.float32
    expected = Moments().moments(to_float(data.images()))[0]
    drawn = tokens.view(200, 10, 3, 2, 2)
    # 200 draws of deviation 1/8: the mean is within 5 standard errors, beside float16's 2^-11 of a unit value.
    assert (drawn.mean(0) - expected).abs().max() < 5 * 0.125 / 200**0.5 + 2**-11
    # 24,000 draws: the deviation of all is known to half a percent, 2 percent is over four of its errors.
    assert (drawn - expected).std().item() == pytest.approx(0.125, rel=0.02)


def test_size_is_known_before_anything_is_written(data, tmp_path):
    spec = describe_cache(Moments(), data, views=2)
    assert spec.num_bytes == 10 * 2 * 6 * 2 * 2 * 2
    assert not list(tmp_path.iterdir())
    cache = build(Moments(), data, tmp_path, views=2)
    assert np.load(cache.folder / shard_name(0)).nbytes == spec.num_bytes


def test_every_setting_has_its_own_name(data):
    base = describe_cache(Codes(), data)
    others = [
        describe_cache(Codes(), data, views=2),
        describe_cache(Codes(), data, seed=1),
        describe_cache(Codes(), data, augmentation=Augmentation(shift=1)),
        describe_cache(Moments(), data),
        dataclasses.replace(base, data="other"),
    ]
    assert len({spec.folder_name for spec in (base, *others)}) == 6
    assert describe_cache(Codes(), data).folder_name == base.folder_name


def test_interrupted_build_goes_on_to_the_same_content(data, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_build, "IMAGES_PER_SHARD", 4)
    settings = {"views": 3, "augmentation": Augmentation(shift=1, rotation=10)}
    whole = build(Codes(), data, tmp_path / "whole", **settings)
    spec = describe_cache(Codes(), data, **settings)

    def stop_after_first(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(Codes(), data, spec, tmp_path / "cut", batch_size=4, watch=stop_after_first)
    with pytest.raises(ValueError, match="no complete token cache"):
        TokenCache(tmp_path / "cut" / spec.folder_name)
    resumed = build_cache(Codes(), data, spec, tmp_path / "cut", batch_size=4)
    for shard in range(3):
        first, second = (np.load(cache.folder / shard_name(shard)) for cache in (whole, resumed))
        assert np.array_equal(first, second)


def test_runs_that_build_a_cache_at_once_leave_each_other_s_files(data, tmp_path, monkeypatch):
    """What another is writing stays, and a shard that it has finished meanwhile is not written once more."""
    monkeypatch.setattr(cache_build, "IMAGES_PER_SHARD", 4)
    other = build(Codes(), data, tmp_path / "other").folder
    target = tmp_path / "shared" / other.name
    target.mkdir(parents=True)
    writing, left = (target / f".{shard_name(2)}.{name}.partial" for name in ("0badcafe", "deadbeef"))
    for file in (writing, left):
        file.write_bytes(b"half")
    os.utime(left, (0, 0))
    finished = []

    def watch(done):
        if not finished:  # the first shard is encoded here, and not written yet
            for file in other.glob(f"{shard_name(0)}*"):
                shutil.copy(file, target)
            finished.append((target / shard_name(0)).stat())

    build_cache(Codes(), data, describe_cache(Codes(), data), tmp_path / "shared", batch_size=4, watch=watch)
    assert os.path.samestat((target / shard_name(0)).stat(), finished[0])
    assert writing.exists()
    assert not left.exists()


def test_views_differ_and_are_all_drawn(data, tmp_path):
    cache = build(Codes(), data, tmp_path, views=3, augmentation=Augmentation(shift=2))
    tokens = cache.tokens(torch.zeros(64, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert len({tuple(row.flatten().tolist()) for row in tokens}) == 3


def test_shift_and_scale_are_one_a_channel(data, tmp_path):
    class Shifted(Moments):
        shift, scale = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])

        def moments(self, images):
            mean, _ = super().moments(images)
            return mean, torch.zeros_like(mean)

        def encode(self, images, *, rng=None):
            return scaled(self, self.moments(images)[0])

    cache = build(Shifted(), data, tmp_path)
    expected = Shifted().encode(to_float(data.images([3, 4])))
    found = TokenCache(cache.folder).tokens(torch.tensor([3, 4]), torch.Generator())
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-3)  # stored as float16, then times 4
    mean = Shifted().moments(to_float(data.images([3, 4])))[0]
    for channel, (shift, scale) in enumerate(((0.1, 1.0), (0.2, 2.0), (0.3, 4.0))):
        torch.testing.assert_close(expected[:, channel], (mean[:, channel] - shift) * scale)
    torch.testing.assert_close(unscaled(Shifted(), expected), mean)


def test_a_plain_scale_computes_what_it_did(data, tmp_path):
    latents = torch.randn(2, 3, 4, 4)
    assert torch.equal(scaled(Moments(), latents), latents * 2.0)
    assert torch.equal(unscaled(Moments(), latents), latents / 2.0)
    assert "shift" not in describe_cache(Moments(), data).folder_name
    assert describe_cache(Moments(), data).scale == 2.0


def test_building_tells_every_batch(data, tmp_path):
    seen = []
    build_cache(Codes(), data, describe_cache(Codes(), data), tmp_path, batch_size=4, watch=seen.append)
    assert seen == [4, 8, 10, 10]


@pytest.mark.parametrize("file", ["cache.json", "labels.npy", shard_name(0)])
@pytest.mark.parametrize("how", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"[]"])
def test_a_broken_cache_is_one_line(data, tmp_path, file, how):
    path = build(Codes(), data, tmp_path).folder / file
    path.write_bytes(how(path.read_bytes()))
    with pytest.raises(ValueError, match=r"broken token cache \(.*\); remove the folder, and it is made anew"):
        build(Codes(), data, tmp_path)


def test_labels_in_the_place_of_tokens_are_told(data, tmp_path):
    folder = build(Codes(), data, tmp_path).folder
    (folder / shard_name(0)).write_bytes((folder / "labels.npy").read_bytes())
    with pytest.raises(ValueError, match="its tokens are not 10 of shape"):
        build(Codes(), data, tmp_path)


def test_processes_deal_the_shards(data, tmp_path, monkeypatch):
    """Each image is read by one process, and what they write together is what one writes."""
    monkeypatch.setattr(cache_build, "IMAGES_PER_SHARD", 3)
    alone = build(Moments(), data, tmp_path / "alone")
    spec, read = describe_cache(Moments(), data), []
    seen = ImageData("noise", data.labels, data.class_names, lambda i: (read.append(i), data[i][0])[1])
    told = []

    def tell_all(mine, compute):
        """Both hear the same; the second process is the one that computes it, for it runs first here."""
        if mine.rank:
            told.append(compute())
        return told[-1] if mine.rank else told.pop(0)

    monkeypatch.setattr(cache_build, "tell_all", tell_all)
    monkeypatch.setattr(cache_build, "meet", lambda mine: None)
    with pytest.raises(
        ValueError, match="broken token cache"
    ):  # the first shard is the other's, which it does not wait for here
        build_cache(Moments(), seen, spec, tmp_path / "two", mine=Processes(rank=1, count=2))
    build_cache(Moments(), seen, spec, tmp_path / "two", mine=Processes(rank=0, count=2))
    assert sorted(read) == list(range(10))
    for shard in range(4):
        files = [folder / spec.folder_name / shard_name(shard) for folder in (tmp_path / "alone", tmp_path / "two")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert len(alone) == len(TokenCache(tmp_path / "two" / spec.folder_name)) == 10


def test_random_views_are_functions_of_the_image(data, tmp_path, monkeypatch):
    """Not of the batch, of the shard, or of how many views there are."""
    settings = {"augmentation": Augmentation(shift=1, rotation=10, noise=0.1, flip=True)}
    whole = build(Codes(), data, tmp_path / "whole", views=2, **settings)
    monkeypatch.setattr(cache_build, "IMAGES_PER_SHARD", 3)
    cut = build_cache(Codes(), data, describe_cache(Codes(), data, views=1, **settings), tmp_path / "cut", batch_size=2)
    first, second = (
        np.concatenate([np.load(cache.folder / shard_name(shard)) for shard in range(count)])
        for cache, count in ((whole, 1), (cut, 4))
    )
    assert np.array_equal(first[:, :1], second)
    assert not np.array_equal(first[:, 0], first[:, 1])


def test_caches_from_before_are_opened(data, tmp_path):
    """Without a word of shards or of how views were drawn, as they were written."""
    cache = build(Codes(), data, tmp_path)
    path = cache.folder / SPEC_NAME
    told = json.loads(path.read_text())
    del told["images_per_shard"], told["drawn"]
    path.write_text(json.dumps(told))
    indices = torch.arange(10)
    assert torch.equal(
        TokenCache(cache.folder).tokens(indices, torch.Generator()), cache.tokens(indices, torch.Generator())
    )
    assert TokenCache(cache.folder).spec.images_per_shard == 4096


@pytest.mark.parametrize(("images", "size"), [(10, 64), (2000, 64), (10_000, 157), (1_281_167, 4096)])
def test_shards_are_many_enough_to_share(images, size):
    assert cache_build.shard_size(images) == size


def test_swapped_shards_and_flipped_bits_are_told_where_they_are_read(data, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_build, "SMALLEST_SHARD", 3)
    cache = build(Codes(), data, tmp_path)
    first, second = (cache.folder / shard_name(number) for number in range(2))
    kept = first.read_bytes(), second.read_bytes()
    assert len(kept[0]) == len(kept[1])
    first.write_bytes(kept[1])
    second.write_bytes(kept[0])
    swapped = build(Codes(), data, tmp_path)
    with pytest.raises(ValueError, match=r"broken token cache \(tokens-0000[01].npy is not what was written\)"):
        swapped.tokens(torch.tensor([0, 4]), torch.Generator())
    first.write_bytes(kept[0])
    second.write_bytes(kept[1][:-1] + bytes([kept[1][-1] ^ 1]))
    flipped = build(Codes(), data, tmp_path)
    flipped.tokens(torch.tensor([0, 1]), torch.Generator())
    with pytest.raises(ValueError, match=r"tokens-00001\.npy is not what was written"):
        flipped.tokens(torch.tensor([4]), torch.Generator())


def test_a_cache_of_an_earlier_version_has_no_sums(data, tmp_path):
    cache = build(Codes(), data, tmp_path)
    for told in cache.folder.glob("*.sha256"):
        told.unlink()
    assert torch.equal(build(Codes(), data, tmp_path).labels, cache.labels)


def test_a_shard_without_its_sum_is_written_anew(data, tmp_path):
    cache = build(Codes(), data, tmp_path)
    kept = (cache.folder / shard_name(0)).read_bytes()
    (cache.folder / "cache.json").unlink()
    (cache.folder / f"{shard_name(0)}.sha256").unlink()
    (cache.folder / shard_name(0)).write_bytes(b"half")
    assert (build(Codes(), data, tmp_path).folder / shard_name(0)).read_bytes() == kept


class Beyond(Codes):
    """Says that it has 200 codes, and makes more of white."""

    name, vocab_size = "beyond", 200


class Fewer(Moments):
    """Says that it has four channels, and makes three."""

    name, channels = "fewer", 4


def test_tokens_that_are_not_what_the_tokenizer_says_are_told(data, tmp_path):
    white = ImageData("white", [0, 0], ["a"], lambda i: np.full((8, 8, 3), 255 * i, dtype=np.uint8))
    with pytest.raises(ValueError, match="tokenizer 'beyond': encode returned code 255; expected codes 0 to 199"):
        build(Beyond(), white, tmp_path)
    assert not list(tmp_path.rglob("tokens-*"))
    with pytest.raises(ValueError, match=r"'fewer': moments returned \(1, 3, 2, 2\); expected .* \(1, 4, 2, 2\)"):
        describe_cache(Fewer(), data)


def test_a_cache_of_another_tokenizer_in_that_place_is_told(data, tmp_path):
    codes, moments = build(Codes(), data, tmp_path).folder, build(Moments(), data, tmp_path).folder
    shutil.rmtree(codes)
    moments.rename(codes)
    with pytest.raises(ValueError, match=f"{codes.name}: holds the tokens of {moments.name}; expected"):
        build(Codes(), data, tmp_path)


@pytest.mark.parametrize("weights", [0.0, 1.0])
def test_processes_have_to_make_the_same_tokens(data, tmp_path, monkeypatch, weights):
    """Told before anything is encoded; random weights are others on each process."""

    class Net(nn.Module, Codes):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(weight))

    specs = [describe_cache(Net(weight), data) for weight in (0.0, weights)]
    monkeypatch.setattr(cache_build, "gathered", lambda value, mine: [spec.folder_name for spec in specs])
    if weights:
        with pytest.raises(
            ValueError, match=r"different tokens \(codes-\w{12}, codes-\w{12}\); expected the same images"
        ):
            cache_build.require_agreement(specs[0], Processes(count=2))
    else:
        cache_build.require_agreement(specs[0], Processes(count=2))
