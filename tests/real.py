"""Real data and models for tests: read where they lie, never copied; where they are absent, tests skip."""

from __future__ import annotations

import os
import struct
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aligner.triplets import read_triplets
from aligner.types import Triplet

_ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("ALIGNER_REAL_DATA", _ROOT / "../shared/data")).resolve()

needs_real_data = pytest.mark.skipif(
    not (REAL_DATA / "triplets").is_dir(),
    reason=f"no real data at {REAL_DATA}; set ALIGNER_REAL_DATA to the directory that holds it",
)


def real_triplets(source: str, count: int, start: int = 0) -> list[Triplet]:
    return list(islice(read_triplets(REAL_DATA / "triplets" / f"{source}.jsonl.xz"), start, start + count))


def stories_model() -> Any:
    """stories260K.bin (llama2.c's legacy fp32 format) as a transformers Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    data = (REAL_DATA / "models" / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, length = struct.unpack("7i", data[:28])
    values = np.frombuffer(data, dtype=np.float32, offset=28)
    position = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal position
        size = int(np.prod(shape))
        position += size
        return torch.from_numpy(values[position - size : position].reshape(shape).copy())

    head = dim // heads
    embedding = take(vocabulary, dim)
    blocks = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": take(layers, dim, dim),
        "self_attn.k_proj": take(layers, kv_heads * head, dim),
        "self_attn.v_proj": take(layers, kv_heads * head, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    norm = take(dim)

    def halves(weight: torch.Tensor, count: int) -> torch.Tensor:
        """llama2.c turns neighbouring pairs of a head, transformers its two halves."""
        return weight.view(count, head // 2, 2, dim).transpose(1, 2).reshape(count * head, dim)

    state = {"model.embed_tokens.weight": embedding, "model.norm.weight": norm, "lm_head.weight": embedding}
    for name, stacked in blocks.items():
        for layer in range(layers):
            weight = stacked[layer]
            if name.endswith("q_proj"):
                weight = halves(weight, heads)
            if name.endswith("k_proj"):
                weight = halves(weight, kv_heads)
            state[f"model.layers.{layer}.{name}.weight"] = weight.contiguous()
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=length, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.eval()


def stories_tokenizer() -> Any:
    """tok512.bin (llama2.c's export of a SentencePiece BPE) as a transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    data = (REAL_DATA / "models" / "tok512.bin").read_bytes()
    offset = 4
    pieces: list[tuple[str, float]] = []
    while offset < len(data):
        score, size = struct.unpack_from("<fi", data, offset)
        offset += 8
        pieces.append((data[offset : offset + size].decode("utf-8", "replace").replace(" ", "▁"), score))
        offset += size
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {name: i for i, name in enumerate(names)}
    for i, (piece, _) in enumerate(pieces[len(names) :], start=len(names)):
        vocabulary[piece] = i
    merges = []
    for piece, score in pieces[len(names) :]:
        for cut in range(1, len(piece)):
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary:
                merges.append((-score, piece[:cut], piece[cut:]))
    merges.sort(key=lambda m: m[0])
    bpe = Tokenizer(
        models.BPE(vocabulary, [(a, b) for _, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
