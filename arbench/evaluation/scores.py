"""The scores as pure functions of features and logits: Inception Score, KID, precision and recall, label accuracy.

FID is `FrechetStatistics.distance`. All arithmetic is float64; constants are those of the original evaluators.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from arbench.evaluation.balls import NEIGHBOURS_KEPT, Balls
from arbench.evaluation.kernels import cubic
from arbench.evaluation.strata import Strata, picked

SHUFFLE_SEED = 2020  # torch-fidelity's; the order of files must not decide the Inception Score
IS_SPLITS = 10  # Salimans et al. 2016: ten blocks, 5,000 images each when there are 50,000
KID_SUBSETS = 100  # Bińkowski et al. 2018, torch-fidelity
KID_SUBSET_SIZE = 1000
WHOLE_KERNEL = 2000  # vectors a side of which the kernel is computed once for all subsets; of more it is too large
NEIGHBOURS = 3  # Kynkäänniemi et al. 2019
DENSITY_NEIGHBOURS = 5  # Naeem et al. 2020
CHUNK_BYTES = 2**28  # of one block of distances


class Kid(NamedTuple):
    """KID averaged over subsets, and its standard deviation over them; None where all subsets are the whole."""

    mean: float
    std: float | None


class SplitScores(NamedTuple):
    """The Inception Score of each split, and how each image moves their mean (its influence, see `intervals`)."""

    scores: np.ndarray  # (splits,)
    influences: np.ndarray  # (N,) in image order, of mean 0


class DensityCoverage(NamedTuple):
    """`density` (N,) of each image, whose mean is the density; `coverage` a fraction in [0, 1].

    `alone` (N,) is the part of the coverage that each image gives alone: without it, so much would be lost.
    """

    density: np.ndarray
    coverage: float
    alone: np.ndarray


class PrecisionRecall(NamedTuple):
    """Fractions in [0, 1]; `balls` say what the recall is as the images are drawn anew."""

    precision: float
    recall: float
    balls: Balls


def inception_splits(logits: np.ndarray, splits: int = IS_SPLITS, seed: int = SHUFFLE_SEED) -> SplitScores:
    """exp(mean KL(p(y|x) || p(y))) of each split of logits (N, K), after a shuffle with a fixed seed.

    With fewer images than `splits`, one image a split. Raises ValueError without images.
    """
    if not len(logits):
        raise ValueError("the Inception Score of no images; expected at least 1")
    order = np.random.RandomState(seed).permutation(len(logits))
    bounds = np.arange(min(splits, len(logits)) + 1) * len(logits) // min(splits, len(logits))
    scores, influences = [], np.empty(len(logits))
    for start, stop in itertools.pairwise(bounds):
        drawn = np.asarray(logits)[order[start:stop]]  # in float64 one split at a time
        block = torch.from_numpy(drawn).double().log_softmax(dim=1).numpy()
        p = np.exp(block)
        # A class that no image of the split shows has p = q = 0 and adds nothing.
        log_q = np.log(p.mean(axis=0).clip(min=np.finfo(np.float64).tiny))
        divergence = (p * (block - log_q)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
        share = len(logits) / (len(bounds) - 1) / len(block)  # of one image of this split in the mean over splits
        influences[order[start:stop]] = share * scores[-1] * (divergence - divergence.mean())
    return SplitScores(np.array(scores), influences)


def kid(
    features: np.ndarray,
    reference: np.ndarray,
    subsets: int = KID_SUBSETS,
    subset_size: int = KID_SUBSET_SIZE,
    seed: int = SHUFFLE_SEED,
    *,
    classes: np.ndarray | None = None,
    reference_classes: np.ndarray | None = None,
) -> Kid:
    """Kernel Inception Distance: unbiased MMD² with the kernel (x·y / D + 1)³, over random subsets.

    `features` (N, D), `reference` (M, D); a subset is never larger than either. `classes` (N,) and `reference_classes`
    (M,) are given where it was laid down, not drawn, how many images a class has: see `strata`. Raises ValueError with
    fewer than two vectors. Slightly negative values are right where the two hardly differ.
    """
    size = min(subset_size, len(features), len(reference))
    if size < 2:
        raise ValueError(f"KID of {len(features)} against {len(reference)} images; expected at least 2 each")
    ours, theirs = Strata.of(len(features), classes), Strata.of(len(reference), reference_classes)
    if size == len(features) == len(reference):  # every subset is the whole
        return Kid(_unbiased_mmd(features, reference, ours, theirs), None)
    random = np.random.RandomState(seed)
    draws = [[random.choice(len(side), size, replace=False) for side in (features, reference)] for _ in range(subsets)]
    if max(len(features), len(reference)) <= WHOLE_KERNEL:
        distances = _unbiased_mmds(features, reference, ours, theirs, np.array(draws))
    else:
        distances = np.array([_unbiased_mmd(features[a], reference[b], ours.take(a), theirs.take(b)) for a, b in draws])
    return Kid(float(np.mean(distances)), float(np.std(distances)))


def _unbiased_mmds(
    features: np.ndarray, reference: np.ndarray, ours: Strata, theirs: Strata, draws: np.ndarray
) -> np.ndarray:
    """(S,) of `_unbiased_mmd` of each of the subsets `draws` (S, 2, n), from one kernel of all vectors."""
    first, second = features.astype(np.float64), reference.astype(np.float64)
    some, others = picked(draws[:, 0], len(first)), picked(draws[:, 1], len(second))
    within = ours.means_over_pairs(cubic(first, first), some) + theirs.means_over_pairs(cubic(second, second), others)
    between = ((some @ cubic(first, second)) * others).sum(axis=1) / draws.shape[2] ** 2
    return within - 2 * between


def _unbiased_mmd(first: np.ndarray, second: np.ndarray, ours: Strata, theirs: Strata) -> float:
    """MMD² of two sets, the kernel of a vector with itself left out."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    within = ours.mean_over_pairs(cubic(first, first)) + theirs.mean_over_pairs(cubic(second, second))
    return within - 2 * float(cubic(first, second).mean())


def precision_recall(
    features: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS, device: torch.device | str = "cpu"
) -> PrecisionRecall:
    """How many generated vectors (N, D) lie within the reference's manifold (M, D), and the other way round.

    A manifold is the union of balls that reach each vector's k-th neighbour. Distances are computed in chunks of
    `CHUNK_BYTES`. Raises ValueError with no more than `neighbours` vectors on a side.
    """
    if min(len(features), len(reference)) <= neighbours:
        raise ValueError(
            f"precision and recall of {len(features)} against {len(reference)} images; expected over {neighbours}"
        )
    centre = np.asarray(reference, np.float64).mean(axis=0)  # near the origin squared distances lose least
    ours, theirs = (torch.from_numpy(x - centre).to(device) for x in (features, reference))
    reach = _reach(theirs, neighbours)
    precision, _ = _held(block <= reach for block in _squared_distances(ours, theirs))
    balls = Balls.of(*_nearest(ours, max(neighbours, NEIGHBOURS_KEPT)), _squared_distances(theirs, ours))
    return PrecisionRecall(precision, balls.share(np.ones(len(ours), dtype=bool), neighbours), balls)


def density_coverage(
    features: np.ndarray,
    reference: np.ndarray,
    neighbours: int = DENSITY_NEIGHBOURS,
    device: torch.device | str = "cpu",
) -> DensityCoverage:
    """In how many balls of the reference (M, D) each image (N, D) lies, over k; how many balls hold an image.

    A ball reaches from a vector of the reference to its k-th neighbour there (Naeem et al. 2020). Raises ValueError
    with no more than `neighbours` vectors of the reference, or no images.
    """
    if len(reference) <= neighbours or not len(features):
        raise ValueError(
            f"density and coverage of {len(features)} against {len(reference)} images; expected over {neighbours}"
        )
    centre = np.asarray(reference, np.float64).mean(axis=0)
    ours, theirs = (torch.from_numpy(x - centre).to(device) for x in (features, reference))
    reach = _reach(theirs, neighbours)
    counts = torch.cat([(block < reach).sum(dim=1) for block in _squared_distances(ours, theirs)])
    blocks = _squared_distances(theirs, ours)
    coverage, alone = _held(block < part[:, None] for block, part in zip(blocks, reach.split(_rows(ours)), strict=True))
    return DensityCoverage(counts.double().cpu().numpy() / neighbours, coverage, alone)


def _reach(points: Tensor, neighbours: int) -> Tensor:
    """(M, D) to (M,): squared distance to the k-th nearest other vector."""
    # The nearest of all is the vector itself.
    rows = [block.kthvalue(neighbours + 1, dim=1).values for block in _squared_distances(points, points)]
    return torch.cat(rows)


def _nearest(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(N, D) to (N, S): the `count` nearest other vectors, all where they are fewer, and squared distances to them."""
    places, distances, start = [], [], 0
    for block in _squared_distances(points, points):
        block.diagonal(start).fill_(torch.inf)  # none is its own neighbour
        found = block.topk(min(count, len(points) - 1), dim=1, largest=False)
        places.append(found.indices)
        distances.append(found.values)
        start += len(block)
    return torch.cat(places), torch.cat(distances)


def _held(blocks: Iterable[Tensor]) -> tuple[float, np.ndarray]:
    """The fraction of queries that anything holds, and what part of it each holder (N,) holds alone.

    `blocks` (b, N) say of each query which holders hold it.
    """
    held, alone, count = 0, torch.zeros(()), 0
    for block in blocks:
        times = block.sum(dim=1)
        held, count = held + int((times > 0).sum()), count + len(block)
        alone = alone.to(block.device) + block[times == 1].sum(dim=0)
    return held / count, alone.double().cpu().numpy() / count


def _squared_distances(queries: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """Blocks (b, M) of squared distances, row after row of `queries`."""
    norms = centres.square().sum(dim=1)
    for block in queries.split(_rows(centres)):
        yield (block.square().sum(dim=1, keepdim=True) + norms).addmm_(block, centres.T, alpha=-2).clamp_(min=0)


def _rows(centres: Tensor) -> int:
    """How many queries a block of distances to `centres` (M, D) has."""
    return max(1, CHUNK_BYTES // (centres.element_size() * len(centres)))


def label_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """How often the classifier's logits (N, K) read the asked-for class (N,). ValueError where lengths differ."""
    if len(logits) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(logits)} images")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f"labels {labels.min()}..{labels.max()}; the classifier knows 0..{logits.shape[1] - 1}")
    return float((logits.argmax(axis=1) == labels).mean())
