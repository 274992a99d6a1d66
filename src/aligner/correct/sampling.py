"""From logits to the next token: greedy, or temperature, top-k and top-p in that order, as in transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aligner.types import Sampling


def probabilities(logits: Float[Tensor, "rows vocab"], sampling: Sampling) -> Float[Tensor, "rows vocab"]:
    """The distribution a sampled row draws from.

    Temperature divides, then all but the `top_k` largest go, then the smallest whose mass stays within 1 − `top_p`.
    """
    scores = logits.float() / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        kth = scores.topk(sampling.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if sampling.top_p < 1:
        ascending, order = scores.sort(dim=-1)
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        drop[:, -1] = False
        scores = scores.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return scores.softmax(dim=-1)


def row_generator(seed: int, prompt: Sequence[int], device: torch.device) -> torch.Generator:
    """A row's own source of randomness: the same seed and prompt draw the same, whatever else is in the batch."""
    digest = hashlib.sha256(f"{seed}:{','.join(map(str, prompt))}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw(logits: Float[Tensor, " vocab"], sampling: Sampling, generator: torch.Generator) -> int:
    """One token of one sampled row."""
    return int(torch.multinomial(probabilities(logits[None], sampling)[0], 1, generator=generator))
