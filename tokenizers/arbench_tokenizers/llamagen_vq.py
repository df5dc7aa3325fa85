"""LlamaGen's tokenizer (`vq_ds16_c2i.pt`, arXiv:2406.06525, section 3.1), which PAR uses too."""

from __future__ import annotations

from torch import Tensor

from arbench_tokenizers import recipes
from arbench_tokenizers.base import VQTokenizer
from arbench_tokenizers.config import VQConfig
from arbench_tokenizers.release import llamagen_names


class LlamaGenVQ(VQTokenizer):
    """16,384 codes of 8 dimensions at 1/16 of the side, latents and codes L2-normalised."""

    name = "llamagen-vq"
    family = "llamagen-vq"
    unit_norm = True
    default = VQConfig(codebook_dim=8)
    recipe = recipes.LLAMAGEN_VQ

    def release_tensors(self) -> dict[str, Tensor]:
        """The state dict under the names of `vq_ds16_c2i.pt`."""
        state = self.state_dict()
        names = llamagen_names(state)
        return {names[name]: tensor for name, tensor in state.items()}
