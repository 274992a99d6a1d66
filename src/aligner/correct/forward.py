"""One forward pass over rows in the slab, with logits at the wanted positions alone."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from threading import get_ident
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aligner.correct.cache import SlabCache, Window
from aligner.errors import CheckpointError

_LAYER_TYPES = {"full_attention", "sliding_attention"}


class Forward:
    """Runs a model over rows of different lengths; counts its passes.

    Args:
        model: a decoder.
        cache_tokens: positions that its cache should have at most (`SlabCache`).

    Raises:
        CheckpointError: the model's layers keep another state than keys and values.
    """

    def __init__(self, model: Any, cache_tokens: int | None = None) -> None:
        config = model.config.get_text_config()
        unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
        head = model.get_output_embeddings()
        attention = config._attn_implementation
        problem = f"layers of type {', '.join(sorted(unknown))}" if unknown else None
        if head is None:
            problem = "no output layer"
        elif "position_ids" not in signature(model.forward).parameters:
            problem = "no position_ids"
        elif attention not in ("sdpa", "eager"):
            problem = f"attention of the kind {attention}"
        if problem is not None:
            raise CheckpointError(
                f"{type(model).__name__} has {problem}, which the step loop cannot decode; use a decoder with full or "
                "sliding-window attention, loaded with attn_implementation sdpa or eager"
            )
        self.model = model
        self.passes = 0
        self.vocabulary: int = model.get_input_embeddings().num_embeddings
        self.context: int | None = _context(config)
        self.cache = SlabCache(config.num_hidden_layers, cache_tokens)
        self._sliding: int | None = getattr(config, "sliding_window", None)
        self._layer_types = set(getattr(config, "layer_types", None) or ())
        self._eager = attention == "eager"
        self._wanted: tuple[int, Tensor] | None = None
        self._hook = head.register_forward_pre_hook(self._select)

    def __call__(
        self,
        tokens: Int[Tensor, "rows width"],
        starts: Sequence[int],
        wanted: Sequence[tuple[int, int]],
        first: int,
    ) -> Float[Tensor, "wanted vocab"]:
        """Read tokens into the slots from `first` on, each row from its own start.

        Args:
            wanted: (column, count) of each row: the positions whose logits are returned, row after row; none where
                nothing is to be written yet.
        """
        window = Window(first=first, starts=tuple(starts), width=tokens.shape[1])
        positions = window.positions(tokens.device)
        rows = [row for row, (_, count) in enumerate(wanted) for _ in range(count)]
        columns = [column + i for column, count in wanted for i in range(count)]
        # The causal mask alone is enough for rows that begin, and for one token of rows that are equally long.
        plain = window.even and (window.starts[0] == 0 or window.width == 1)
        try:
            self.cache.aim(window, positions)
            places = torch.tensor([rows, columns], dtype=torch.long, device=tokens.device)
            # The hook is the model's, which other loops may run in other threads at the same time.
            self._wanted = (get_ident(), places)
            output = self.model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=None if plain else self._mask(window, positions),
                past_key_values=self.cache,
                use_cache=True,
            )
        except BaseException:
            self.cache.undo()
            raise
        finally:
            self._wanted = None
        self.passes += 1
        logits: Tensor = output.logits
        return logits[0]

    def share(self, source: int, first: int, count: int, length: int) -> None:
        """Give `count` slots from `first` on the first positions of another, which need not be read again."""
        try:
            self.cache.spread(source, first, count, length)
        except BaseException:
            self.cache.undo()
            raise

    def close(self) -> None:
        """Leave the model as it was, and give the cache's memory back."""
        self._hook.remove()
        self.cache.clear()

    def _mask(self, window: Window, positions: Tensor) -> Any:
        """Attention masks for rows of different lengths, in the form the model's layers take them."""
        kinds = self._layer_types or {"sliding_attention" if self._sliding else "full_attention"}
        masks = {}
        for kind in kinds:
            mask = window.mask(positions, self._sliding if kind == "sliding_attention" else None)
            if self._eager:
                mask = torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device).masked_fill(
                    ~mask, torch.finfo(self.model.dtype).min
                )
            masks[kind] = mask
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _select(self, _head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the output layer: keep only the hidden states whose logits somebody wants."""
        if self._wanted is None or self._wanted[0] != get_ident():
            return None
        rows, columns = self._wanted[1]
        hidden = args[0]
        return (hidden.transpose(0, 1) if hidden.shape[1] == 1 else hidden[rows, columns][None], *args[1:])


def _context(config: Any) -> int | None:
    """Positions that rows may take. With "longrope" a pass turns all its rows in another way once one of them is longer
    than the first training's context: up to there, no row hangs on its company or its drafts."""
    most: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if most is not None and part.get("rope_type") == "longrope":
            most = min(most, part.get("original_max_position_embeddings") or most)
    return most
