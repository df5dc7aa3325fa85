"""Inception with random weights, as a file that torch-fidelity reads: the real ones are a download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def write_random_inception(folder: Path) -> Path:
    """Seeded weights that keep the activations' scale, so that different images have different features."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # its constructor insists on loading a file
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *_, **__: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), folder / "inception.pth")
    return folder / "inception.pth"
