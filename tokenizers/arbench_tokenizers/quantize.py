"""Vector quantisation: the exact nearest code, ties to the lower id, Euclidean or between unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arbench.images.pixels import check_finite

CHUNK_SCORES = 2**24  # scores held at once (64 MiB of float32), so that memory does not grow with the batch
ROUNDING = 64  # how far a score may stand from its true value, in units of the product's precision


class VectorQuantizer(nn.Module):
    """A codebook (vocab_size, codebook_dim); calling it gives the id of the nearest code.

    With `unit_norm`, latents and codes are L2-normalised first, both here and in `lookup` (LlamaGen).
    """

    def __init__(self, vocab_size: int, codebook_dim: int, *, unit_norm: bool = False) -> None:
        super().__init__()
        self.unit_norm = unit_norm
        # a given weight spares the normal initialisation, which on the meta device costs seconds of imports
        self.embedding = nn.Embedding(vocab_size, codebook_dim, _weight=torch.empty(vocab_size, codebook_dim))
        nn.init.uniform_(self.embedding.weight, -1.0 / vocab_size, 1.0 / vocab_size)

    def codebook(self) -> Tensor:
        """The codes as they are compared and looked up, (V, D)."""
        return F.normalize(self.embedding.weight, dim=1) if self.unit_norm else self.embedding.weight

    def normalize(self, latents: Tensor) -> Tensor:
        """Latents (B, D, h, w) as they are compared with the codes."""
        return F.normalize(latents, dim=1) if self.unit_norm else latents

    @torch.no_grad()
    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, D, h, w) -> ids (B, h, w) int64, the first of equally near codes.

        Raises ValueError for NaN or infinite latents and for a wrong number of channels.
        """
        dim = self.embedding.embedding_dim
        if latents.ndim != 4 or latents.shape[1] != dim:
            raise ValueError(f"latents to quantise have shape {tuple(latents.shape)}; expected (B, {dim}, h, w)")
        check_finite(latents, "latents to quantise")
        vectors = self.normalize(latents.to(self.embedding.weight.dtype)).permute(0, 2, 3, 1)  # (B, h, w, D)
        return nearest_code(vectors.reshape(-1, dim), self.codebook()).view(vectors.shape[:3])

    def lookup(self, ids: Tensor) -> Tensor:
        """Ids (B, h, w) -> codes (B, D, h, w). Raises ValueError for an id outside the codebook; on a GPU, where nobody
        waits for values, its code is NaN, and so are the pixels around."""
        vocab_size = self.embedding.num_embeddings
        if ids.is_floating_point() or ids.ndim != 3:
            raise ValueError(f"ids are {ids.dtype} of shape {tuple(ids.shape)}; expected integers (B, h, w)")
        if not can_be_looked_at(ids):
            return codes_or_nan(ids, self.codebook()).permute(0, 3, 1, 2)
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size):
            raise ValueError(f"ids reach from {int(ids.min())} to {int(ids.max())}; expected 0 to {vocab_size - 1}")
        return F.embedding(ids, self.codebook()).permute(0, 3, 1, 2)


def can_be_looked_at(ids: Tensor) -> bool:
    """Whether nothing is waited for where their values are asked for."""
    return not ids.is_cuda


def codes_or_nan(ids: Tensor, codebook: Tensor) -> Tensor:
    """Codes (.., D) of ids (..), NaN where the codebook (V, D) has none; no value is asked for."""
    is_there = (ids >= 0) & (ids < len(codebook))
    return F.embedding(ids * is_there, codebook).masked_fill(~is_there.unsqueeze(-1), torch.nan)


def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index (N,) of the code (V, D) nearest to each vector (N, D), the first among equals.

    One product ranks all codes; where several stand within its rounding of the best, they are compared again by
    exact differences in float64. So an id depends on its own vector alone, never on the batch it came in.
    """
    compute = torch.promote_types(codebook.dtype, torch.float32)
    codes = codebook.to(compute)
    norms = codes.square().sum(1)
    rows = max(1, CHUNK_SCORES // len(codes))
    return torch.cat([_nearest_in_chunk(chunk.to(compute), codes, norms) for chunk in vectors.split(rows)])


def _nearest_in_chunk(vectors: Tensor, codes: Tensor, norms: Tensor) -> Tensor:
    with torch.autocast(vectors.device.type, enabled=False):
        scores = torch.addmm(norms, vectors, codes.t(), alpha=-2)  # |code|² − 2 vector·code
    best, ids = scores.min(dim=1)
    slack = ROUNDING * product_precision(codes.dtype) * (vectors.square().sum(1) + norms.max())
    close = scores <= (best + slack).unsqueeze(1)
    rows, candidates = (close & (close.sum(1, keepdim=True) > 1)).nonzero(as_tuple=True)
    if len(rows):
        # a few pairs; on the CPU, since not every device has float64
        distances = (codes[candidates].cpu().double() - vectors[rows].cpu().double()).square().sum(1)
        settled, winners = _first_nearest(rows.cpu(), candidates.cpu(), distances)
        ids[settled.to(ids.device)] = winners.to(ids.device)
    return ids


def product_precision(dtype: torch.dtype) -> float:
    """Relative rounding of a matrix product of `dtype` as torch is set: float32 may use TF32 or bfloat16."""
    exact = dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return torch.finfo(dtype if exact else torch.bfloat16).eps


def _first_nearest(rows: Tensor, candidates: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Each different row, and its nearest candidate, the lowest id among equals; all (P,) pairs, rows ascending."""
    settled, place = rows.unique(return_inverse=True)
    nearest = distances.new_full(settled.shape, torch.inf).scatter_reduce_(0, place, distances, "amin")
    is_nearest = distances == nearest[place]
    winners = candidates.new_full(settled.shape, torch.iinfo(candidates.dtype).max)
    return settled, winners.scatter_reduce_(0, place[is_nearest], candidates[is_nearest], "amin")
