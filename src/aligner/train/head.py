"""The output layer on the positions that have a label: of all others nobody needs logits, and they cost the most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def head_at(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Within it, a causal LM's logits are those of these positions alone: [1, positions, vocabulary]."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][rows, columns][None],))
    try:
        yield
    finally:
        hook.remove()
