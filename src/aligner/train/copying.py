"""Weights from which a new model can copy before it has learned anything: what a corrector does most.

With the usual small random weights a model of a few million parameters learns to repeat what it knows and hardly ever
what it reads: copying needs two layers that fit each other. They are written down here, weakly, and training goes on
from them as it likes. Measured in docs/design/pocket.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_PASS_ON = 0.5  # how much of the identity values and outputs make together: its square
_BACK = 3  # tokens that the second layer's match looks back at most
_SHARP = 4.0  # logits of a token's place, per pair of rotary dimensions
_MATCH = 1.0  # scale of the second layer's queries and keys
_READS = 0.5  # share of the rotary pairs, the slowest ones, that compare what tokens are and not where

Matrix = Float[Tensor, "rows columns"]


def ready_to_copy(model: Any) -> None:
    """Change a new Llama-like model's weights in place; torch's global random numbers decide them.

    In every layer values and outputs are nearly inverse and tokens are far apart, so that attention passes on what it
    attends to (Trockman and Kolter, Mimetic Initialization of Self-Attention Layers, 2023). Heads of the first layer
    attend to one, two and three tokens before; those of the second match the last tokens with the tokens before each
    place and so attend to what followed the last time (Olsson et al., In-context Learning and Induction Heads, 2022).
    A model of one layer or one head gets the first part alone.
    """
    config = model.config
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding.normal_(0, config.hidden_size**-0.5)
        for layer in model.model.layers:
            _pass_on(layer.self_attn, config)
        head = config.hidden_size // config.num_attention_heads
        back = min(_BACK, config.num_key_value_heads, (config.hidden_size - 1) // head)
        if back and len(model.model.layers) > 1:
            frequencies = model.model.rotary_emb.inv_freq.float()
            # A direction that all tokens share, by which a head can tell where a token is without asking what it is;
            # then a place for what stands one, two and three tokens before.
            basis = _orthonormal(1 + back * head, config.hidden_size)
            shared, places = basis[0], basis[1:].view(back, head, config.hidden_size)
            embedding.sub_((embedding @ shared)[:, None] * shared).add_(shared)
            read = _orthonormal(head, config.hidden_size)
            read -= (read @ shared)[:, None] * shared
            _look_back(model.model.layers[0].self_attn, config, frequencies, shared, places, read)
            _match(model.model.layers[1].self_attn, config, frequencies, places, read)


def _pass_on(attention: Any, config: Any) -> None:
    """Values and outputs that make a part of the identity together."""
    value, output = attention.v_proj.weight, attention.o_proj.weight
    turn = _orthonormal(config.hidden_size, config.hidden_size)[: value.shape[0]]
    head = value.shape[0] // config.num_key_value_heads
    group = config.num_attention_heads // config.num_key_value_heads
    back = turn.view(-1, head, config.hidden_size).repeat_interleave(group, dim=0).flatten(0, 1) / group
    value.add_(turn, alpha=_PASS_ON)
    output.add_(back.T, alpha=_PASS_ON)


def _look_back(
    attention: Any,
    config: Any,
    frequencies: Float[Tensor, " pairs"],
    shared: Float[Tensor, " hidden"],
    places: Float[Tensor, "back head hidden"],
    read: Matrix,
) -> None:
    """Heads that attend k tokens back: keys are turned by k steps against queries, so that the dot product of the
    rotated two, Σ_f cos((i − j − k)·θ_f), is largest there."""
    back, head, hidden = places.shape
    group = config.num_attention_heads // config.num_key_value_heads
    # Half of a normed token's square length lies in the shared direction.
    scale = math.sqrt(_SHARP * math.sqrt(head)) / math.sqrt(hidden / 2)
    still = torch.cat([torch.ones_like(frequencies), torch.zeros_like(frequencies)])
    for k in range(back):
        turned = torch.cat([torch.cos((k + 1) * frequencies), torch.sin((k + 1) * frequencies)])
        attention.k_proj.weight[_rows(k, head)] = scale * turned[:, None] * shared
        attention.v_proj.weight[_rows(k, head)] = read
        for h in range(k * group, (k + 1) * group):
            attention.q_proj.weight[_rows(h, head)] = scale * still[:, None] * shared
            # As long as the token itself: read @ a normed token has the square length head / 2.
            attention.o_proj.weight[:, _rows(h, head)] = places[k].T / math.sqrt(head / 2) / group


def _match(
    attention: Any,
    config: Any,
    frequencies: Float[Tensor, " pairs"],
    places: Float[Tensor, "back head hidden"],
    read: Matrix,
) -> None:
    """Heads whose queries hold the last tokens, and whose keys those before a place, in the dimensions that the rotary
    embedding turns least."""
    back, head, hidden = places.shape
    group = config.num_attention_heads // config.num_key_value_heads
    pairs = len(frequencies)
    slow = torch.arange(pairs - max(1, int(pairs * _READS)), pairs)
    dimensions = torch.cat([slow, slow + pairs])
    for k in range(config.num_key_value_heads):
        asked, held = torch.zeros(head, hidden), torch.zeros(head, hidden)
        for step in range(back):
            part = _orthonormal(len(dimensions), head)
            # `read` shows the token itself, whose trace in `places` is twice as long.
            asked[dimensions] += 2 * part @ read if step == 0 else part @ places[step - 1]
            held[dimensions] += part @ places[step]
        attention.k_proj.weight[_rows(k, head)] = _MATCH * held
        for h in range(k * group, (k + 1) * group):
            attention.q_proj.weight[_rows(h, head)] = _MATCH * asked


def _rows(index: int, head: int) -> slice:
    return slice(index * head, (index + 1) * head)


def _orthonormal(rows: int, columns: int) -> Matrix:
    """Random orthonormal rows."""
    columns_apart: Tensor = torch.linalg.qr(torch.randn(columns, rows)).Q
    return columns_apart.T
