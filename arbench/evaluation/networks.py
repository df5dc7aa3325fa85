"""The networks that ship: torch-fidelity's Inception and the digits classifier. Each is found by entry point."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arbench.evaluation.digits_cnn import FEATURE_WIDTH, NUM_CLASSES, DigitsCNN
from arbench.evaluation.extractors import Extracted
from arbench.evaluation.files import one_line, read_state
from arbench.images.data import DIGITS_SIZE
from arbench.images.pixels import to_float
from arbench.machine.files import file_sha256
from arbench.machine.hardware import exact_float32

INCEPTION_WIDTH = 2048  # pool3
SPATIAL_CHANNELS = 7  # ADM's sFID: the first channels of mixed_6/conv, 7 * 17 * 17 = 2023 features
DIGITS_WEIGHTS = "digits-cnn.safetensors"


class Inception:
    """torch-fidelity's Inception v3 (2015-12-05), float32 without TF32: pool3, logits without bias, mixed_6/conv."""

    name = "inception"
    resize = "TensorFlow-1 bilinear to 299, no antialias"
    width = INCEPTION_WIDTH
    num_classes: int | None = None  # 1,008 outputs in TensorFlow's order
    has_logits = has_spatial = True

    def __init__(self, state: Mapping[str, Tensor], sha256: str, device: torch.device | str = "cpu") -> None:
        """From a state dict; ValueError where its names or shapes are not Inception's."""
        self.sha256, self.device = sha256, torch.device(device)
        self._network = _inception_network(state).to(self.device)

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> Inception:
        file = weights or _downloaded_inception()
        return cls(read_state(file), file_sha256(file), device)

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3) to (B, width)."""
        return self.extract(images).features

    @torch.inference_mode()
    def extract(self, images: np.ndarray, spatial: bool = False) -> Extracted:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device)
        with exact_float32(self.device), self._spatial_hook(spatial) as caught:
            features, logits = self._network(pixels)
        assert features.dtype == logits.dtype == torch.float32
        return Extracted(_numpy(features), _numpy(logits), _numpy(_flatten(caught[0])) if spatial else None)

    @contextlib.contextmanager
    def _spatial_hook(self, wanted: bool) -> Iterator[list[Tensor]]:
        """Collects mixed_6/conv of the forward pass: TensorFlow's mixed_6 is Mixed_6d, its conv the 1×1 branch."""
        caught: list[Tensor] = []
        if not wanted:
            yield caught
            return
        handle = self._network.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, output: caught.append(output))
        try:
            yield caught
        finally:
            handle.remove()


class Digits:
    """The classifier of handwritten digits on 32×32 images: 64 features, 10 logits."""

    name = "digits-cnn"
    resize = "none (32x32)"
    width = FEATURE_WIDTH
    num_classes: int | None = NUM_CLASSES
    has_logits, has_spatial = True, False
    standardised = True  # before kernels: its features are of any size

    def __init__(self, state: Mapping[str, Tensor], sha256: str, device: torch.device | str = "cpu") -> None:
        """From a state dict; ValueError where its names or shapes are not `DigitsCNN`'s."""
        self.sha256, self.device = sha256, torch.device(device)
        network = DigitsCNN()
        _load_strictly(network, state, self.name)
        self._network = network.to(self.device).float().eval().requires_grad_(False)

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> Digits:
        if weights is not None:
            return cls(read_state(weights), file_sha256(weights), device)
        with resources.as_file(resources.files("arbench") / "assets" / DIGITS_WEIGHTS) as file:
            return cls(read_state(file), file_sha256(file), device)

    def features(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3) to (B, width)."""
        return self.extract(images).features

    @torch.inference_mode()
    def extract(self, images: np.ndarray, spatial: bool = False) -> Extracted:
        assert not spatial, "digits-cnn has no spatial features"
        if images.shape[1:3] != (DIGITS_SIZE, DIGITS_SIZE):
            raise ValueError(f"{self.name} reads 32x32 images, not {images.shape[1]}x{images.shape[2]}")
        with exact_float32(self.device):
            features = self._network.features(to_float(images).to(self.device))
            logits = self._network.classify(features)
        return Extracted(_numpy(features), _numpy(logits), None)


def torch_fidelity_inception() -> ModuleType:
    """torch-fidelity's module of Inception, which takes a while to import."""
    from torch_fidelity import feature_extractor_inceptionv3

    return feature_extractor_inceptionv3


def _inception_network(state: Mapping[str, Tensor]) -> Any:
    """torch-fidelity's module with `state` in it, giving (pool3, logits without bias)."""
    # Its constructor unpickles a file without restriction, so it is handed tensors that were read safely.
    content = io.BytesIO()
    torch.save(dict(state), content)
    content.seek(0)
    try:
        network = torch_fidelity_inception().FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=content
        )
    except RuntimeError as error:  # load_state_dict: names or shapes
        raise ValueError(f"these are not weights of torch-fidelity's Inception: {one_line(error)}") from error
    # torch-fidelity 0.4 turns even an asked-for "float64" into float32; what it computes in is checked, not assumed.
    dtypes = {parameter.dtype for parameter in network.parameters()}
    assert dtypes == {torch.float32}, f"Inception computes in {dtypes}"
    return network.eval().requires_grad_(False)


def _downloaded_inception() -> Path:
    """torch-fidelity's weights file in torch's hub folder, downloaded where it is not there yet and hash-checked."""
    address = torch_fidelity_inception().URL_INCEPTION_V3
    file = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    prefix = file.stem.rsplit("-", 1)[-1]  # the file's name ends with the first digits of its SHA-256
    try:
        torch.hub.download_url_to_file(address, str(file), hash_prefix=prefix, progress=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"Inception weights cannot be downloaded from {address} ({one_line(error)}); "
            f"fetch {file.name} elsewhere and give it as --inception-weights FILE"
        ) from error
    return file


def _load_strictly(network: torch.nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"these are not weights of {name}: {one_line(error)}") from error


def _flatten(spatial: Tensor) -> Tensor:
    """(B, C, 17, 17) to (B, 2023): the first 7 channels, flattened height, width, channel as TensorFlow lays them."""
    return spatial[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
