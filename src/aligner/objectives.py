"""The paper's equations as pure functions of logits and log-probabilities.

Symbols: x question, y_o original answer, y_c correction, μ_φ the corrector, π_θ the upstream, π' the stack.
Source: "Aligner: Efficient Alignment by Learning to Correct", section 2 (arXiv 2402.02416).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def token_log_probs(
    logits: Float[Tensor, "batch seq vocab"], ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq-1"]:
    """log p(token t + 1 | tokens up to t), in nats, for every position but the last.

    Half precision is computed in fp32; double stays double.
    """
    scores = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    chosen = scores.gather(-1, ids[:, 1:, None]).squeeze(-1)
    return chosen - scores.logsumexp(dim=-1)


def completion_log_probs(
    logits: Float[Tensor, "batch seq vocab"],
    ids: Int[Tensor, "batch seq"],
    completion_mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, " batch"]:
    """log μ_φ(y_c | y_o, x) = Σ_t log μ_φ(y_c,t | y_c,<t, y_o, x), in nats, a sum over each row's completion.

    `completion_mask` is True on the completion's tokens, its end token included.
    """
    # Not a product with the mask: a prompt token of probability 0 would make −∞ · 0, which is no number.
    return torch.where(completion_mask[:, 1:].bool(), token_log_probs(logits, ids), 0.0).sum(dim=-1)


def sft_loss(
    logits: Float[Tensor, "batch seq vocab"],
    ids: Int[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """−(1/N) Σ log p(token | tokens before it) over the N tokens that `mask` marks: cross-entropy per token, in nats.

    The mean is over tokens, not rows, as in TRL's SFTTrainer. Tokens that have none before them count nowhere.

    Raises:
        ValueError: no token is marked, so that there is nothing to take a mean of.
    """
    count = mask[:, 1:].bool().sum()
    if count == 0:
        raise ValueError("no token is marked for the loss; every row's completion is empty or masked out")
    return -completion_log_probs(logits, ids, mask).sum() / count


def corrector_loss(
    logits: Float[Tensor, "batch seq vocab"],
    ids: Int[Tensor, "batch seq"],
    completion_mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """L(φ) = −E[log μ_φ(y_c | y_o, x)], per token of the correction, in nats (the paper's training objective).

    The loss of supervised fine-tuning on rows (x, y_o → y_c) whose mask marks the correction alone; on identity rows
    (y_c = y_o) it is the warm-up's loss.

    Raises:
        ValueError: no correction token is marked.
    """
    return sft_loss(logits, ids, completion_mask)


def stack_log_probs(
    correction_log_probs: Float[Tensor, "answers corrections"],
    answer_log_probs: Float[Tensor, " answers"],
) -> Float[Tensor, " corrections"]:
    """log π'(y_c | x) = log Σ_k μ_φ(y_c | y_k, x) π_θ(y_k | x), for every correction, in nats (the composition).

    `correction_log_probs[k, c]` is log μ_φ(y_c | y_k, x) and `answer_log_probs[k]` is log π_θ(y_k | x).
    """
    return torch.logsumexp(correction_log_probs + answer_log_probs[:, None], dim=0)


def stack_loss_bound(
    correction_log_prob: Float[Tensor, " rows"], answer_log_prob: Float[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """−E[log μ_φ(y_c | y_o, x)] − E[log π_θ(y_o | x)], in nats: an upper bound of the stack's loss −E[log π'(y_c | x)].

    One term of the composition's sum is at most the sum, and −log is decreasing. The second term does not depend on φ,
    so training the corrector minimises the bound.
    """
    return -correction_log_prob.mean() - answer_log_prob.mean()
