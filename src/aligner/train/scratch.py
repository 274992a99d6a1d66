"""A corrector's model and tokenizer from nothing but a configuration and texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from aligner.errors import DataError
from aligner.train.config import Scratch
from aligner.train.copying import ready_to_copy

_PAD, _END = "<|pad|>", "<|end|>"
_ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with a chat template; any text round-trips, and it has no unknown token.

    Raises:
        DataError: there are no texts.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [_PAD, _END, *_ROLES.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = 0

    def counted() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            seen += 1
            yield text.encode("utf-8", "replace").decode("utf-8")

    bpe.train_from_iterator(counted(), trainer)
    if not seen:
        raise DataError("there are no texts to train a tokenizer on; name files with triplets in 'data'")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=_PAD,
        eos_token=_END,
        additional_special_tokens=list(_ROLES.values()),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def build_model(config: Scratch, tokenizer: Any, context: int, seed: int) -> Any:
    """A randomly initialised causal LM for the tokenizer, with tied embeddings; the seed decides its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    feed_forward = config.feed_forward or -(-config.hidden * 8 // 3 // 16) * 16
    model_config = AutoConfig.for_model(
        config.architecture,
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads or config.heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(model_config, attn_implementation="sdpa")
        ready_to_copy(model)
    return model
