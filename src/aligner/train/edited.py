"""Which tokens of a correction depart from its answer, and how training weighs them.

Most of a correction is a copy, so most of its loss says how to copy. Weighing the edited tokens more is known from
grammatical error correction (Junczys-Dowmunt et al. 2018, "Approaching Neural Grammatical Error Correction as a
Low-Resource Machine Translation Task", section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rapidfuzz.distance import LCSseq
from torch import Tensor

IGNORED = -100
"""The label of a token that the loss passes over."""


def edited(answer: Sequence[int], correction: Sequence[int]) -> tuple[bool, ...]:
    """For each token of the correction, whether it is none of the answer's, or the first after some were left out."""
    found = [False] * (len(correction) + 1)  # one more for what is left out at the very end
    for same, group in groupby(LCSseq.opcodes(answer, correction), key=lambda block: block.tag == "equal"):
        if same:
            continue
        blocks = list(group)
        start, stop = blocks[0].dest_start, blocks[-1].dest_end
        for i in range(start, max(stop, start + 1)):
            found[i] = True
    return tuple(found[:-1])


def mark(token: int) -> int:
    """The label of an edited token. The library's collator carries labels and nothing else, so the sign says it."""
    return IGNORED - 1 - token


def unmark(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels as they are without marks, and which of them were marked; both in the shape of `labels`."""
    marked = labels < IGNORED
    return labels.where(~marked, IGNORED - 1 - labels), marked


def weight_at(start: float, step: int, steps: int) -> float:
    """The weight of edited tokens at a step. It falls evenly from `start` to 1: in the end the model edits as readily
    as its data do."""
    return 1 + (start - 1) * max(0.0, 1 - step / max(1, steps))
