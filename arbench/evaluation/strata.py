"""Images whose numbers a class were laid down are no independent draws; what that means for averages over pairs.

Of independent draws from classes with frequencies p, two share class c with probability p_c². Of N images, n_c = N p_c
of each class, a random pair does so with n_c (n_c - 1) / N (N - 1) only. Vectors of one class being alike, the mean of
a kernel over pairs comes out too low, and KID with it: real digits against real ones, 400 balanced images a side, have
-235 in place of 0. The stratified mean, sum_c p_c² mean_cc + sum_{c≠d} p_c p_d mean_cd, is right.

The frequencies are each set's own, as in FID: a class that one side has more of is a difference between the two. For
classes that were drawn at random it is the plain mean that is right, and the stratified one is too high, for it takes
the chance difference of the frequencies for a real one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANDOM = "random"  # a label mode: each image's class was drawn by itself
SINGLE = "KID takes images as independent draws, for some class has only one; of balanced classes it is biased low"


def allotted(labels: np.ndarray | None, label_mode: str | None) -> bool:
    """Whether it was laid down how many images each class has, by `label_mode` or, where unknown, by even numbers."""
    if labels is None or label_mode == RANDOM:
        return False
    counts = np.unique(labels, return_counts=True)[1]
    return label_mode is not None or bool(counts.max() - counts.min() <= 1)


def strata_of(labels: np.ndarray | None, label_mode: str | None) -> np.ndarray | None:
    """`labels` (N,) where they were allotted and every class has a pair of images, else None: independent draws."""
    if labels is None or not allotted(labels, label_mode):
        return None
    return labels if np.unique(labels, return_counts=True)[1].min() > 1 else None


def describe_strata(images: np.ndarray | None, reference: np.ndarray | None) -> str:
    """The estimator of KID in words."""
    if images is None and reference is None:
        return "images as independent draws"
    if images is None or reference is None:
        one, other = ("reference", "images") if images is None else ("images", "reference")
        return f"{one} stratified by class, {other} as independent draws"
    return "stratified by class"


@dataclass(frozen=True, kw_only=True)
class Strata:
    """How much each pair of N images counts in a mean over pairs; `classes` (N,) is None for independent draws."""

    classes: np.ndarray | None
    surplus: np.ndarray  # (N,) how much more than 1 a pair within the image's class counts
    scale: float

    @classmethod
    def of(cls, count: int, classes: np.ndarray | None) -> Strata:
        """Of `count` images; a class that is given has two at least."""
        if classes is None:
            return cls(classes=None, surplus=np.zeros(count), scale=1.0)
        _, member, counts = np.unique(classes, return_inverse=True, return_counts=True)
        assert counts.min() > 1, "a class of one image has no pair"
        # A pair within a class counts n_c / (n_c - 1) times one of two classes, and all together count 1.
        return cls(classes=member, surplus=(1 / (counts - 1))[member], scale=(count - 1) / count)

    def take(self, chosen: np.ndarray) -> Strata:
        """Of a random subset, in which every pair counts as much as in the whole."""
        classes = None if self.classes is None else self.classes[chosen]
        return Strata(classes=classes, surplus=self.surplus[chosen], scale=self.scale)

    def mean_over_pairs(self, kernel: np.ndarray) -> float:
        """The mean of `kernel` (n, n) over pairs of two different images."""
        size = len(kernel)
        total = kernel.sum() - np.trace(kernel)
        if self.classes is not None:
            within = np.where(self.classes[:, None] == self.classes, kernel, 0)
            total += self.surplus @ (within.sum(axis=1) - np.diag(kernel))
        return float(total * self.scale / (size * (size - 1)))

    def means_over_pairs(self, kernel: np.ndarray, subsets: np.ndarray) -> np.ndarray:
        """(S,) of what `mean_over_pairs` is of each subset, its images those that are 1 in `subsets` (S, N).

        `kernel` (N, N) is of all images; its diagonal is set to 0.
        """
        np.fill_diagonal(kernel, 0)
        totals = ((subsets @ kernel) * subsets).sum(axis=1)
        if self.classes is not None:
            kernel *= self.classes[:, None] == self.classes
            totals += ((subsets @ kernel) * subsets) @ self.surplus
        sizes = subsets.sum(axis=1)
        return totals * self.scale / (sizes * (sizes - 1))


def picked(subsets: np.ndarray, count: int) -> np.ndarray:
    """(S, n) numbers of images to (S, count): 1 where an image is in the subset, else 0."""
    chosen = np.zeros((len(subsets), count))
    np.put_along_axis(chosen, subsets, 1.0, axis=1)
    return chosen
