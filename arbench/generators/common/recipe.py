"""What the training recipes of several methods share."""

from __future__ import annotations

from arbench.generators.recipe import Augmentation

# Mild enough that the views of a digit have the distribution of digits.
MILD = Augmentation(shift=0.7, rotation=4, scale=0.03, shear=0.03)
DIFFUSION_HEAD = ("diffloss.",)  # how the names of its tensors begin; nothing of it decays (MAR release)
