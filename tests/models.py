"""Tokenizers of every family that matters, and tiny models, built in process from a few sentences: no download."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from aligner.correct.aligner import Aligner
from aligner.correct.card import AlignerCard
from aligner.correct.ticket import Row
from aligner.prompts import PromptFormat
from aligner.train.scratch import train_tokenizer
from tests.real import REAL_DATA

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "How do I boil rice? Wash it first, then add two cups of water and wait for ten minutes.",
    "Correct the answer above. You correct answers: more helpful, harmless and honest.",
    "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair. ASSISTANT: done",
    "System: be kind.\nUser: what is the sum of 12 and 30?\nAssistant: The sum is 42.\n",
    "def area(radius):\n    return 3.14 * radius ** 2\n\nprint(area(2))  # a comment",
    "Ein Löffel Öl, drei Äpfel und süße Brötchen; c'est très bien, n'est-ce pas?",
    "她说：“你好，世界！” Привет, мир. مرحبا. こんにちは。 Emoji: 😀 👍🏽 🙂",
)
_UNIGRAM_SPECIAL = ("<pad>", "</s>", "<unk>")
_PRINTABLE = [chr(code) for code in range(33, 127)]

_CHATML_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA2_TEMPLATE = (
    "{% set first = 1 if messages[0].role == 'system' else 0 %}"
    "{% for m in messages[first:] %}"
    "{% if m.role == 'user' %}"
    "<s>[INST] {% if first and loop.first %}<<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{% endif %}"
    "{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} </s>{% endif %}"
    "{% endfor %}"
)
_LLAMA3_TEMPLATE = (
    "{% set first = 1 if messages[0].role == 'system' else 0 %}"
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
    "{{ messages[0].content | trim if first else '' }}<|eot_id|>"
    "{% for m in messages[first:] %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _plain_template(end: str) -> str:
    """Roles as ordinary words, only the end of a turn is a token."""
    return (
        "{% for m in messages %}### {{ m.role }}\n{{ m.content }}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant\n{% endif %}"
    )


@cache
def byte_bpe_tokenizer() -> Any:
    """The tokenizer that training from scratch makes."""
    return train_tokenizer(iter(SENTENCES), 400)


@cache
def chatml_tokenizer() -> Any:
    """As Qwen's: NFC, ChatML; some added tokens are not marked special."""
    from tokenizers import normalizers

    bpe = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>", "<tool_call>"])
    bpe.normalizer = normalizers.NFC()
    return _wrap(bpe, _CHATML_TEMPLATE, pad_token="<|endoftext|>", eos_token="<|im_end|>")


@cache
def llama2_tokenizer() -> Any:
    """As Llama 2's: SentencePiece BPE with byte fallback, a blank before the text, a begin token."""
    from tokenizers import decoders, pre_tokenizers, processors

    bpe = _sentencepiece(["<unk>", "<s>", "</s>"], [])
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _wrap(bpe, _LLAMA2_TEMPLATE, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>")


@cache
def llama3_tokenizer() -> Any:
    """As Llama 3's: words of the vocabulary are taken whole, merges or not; the template prints the date."""
    from tokenizers import processors

    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    bpe = _byte_level(special, [], whole_words=["Ġrectangular", "Ġanswerable", "Assistance"])
    begin = bpe.token_to_id("<|begin_of_text|>")
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
    )
    return _wrap(
        bpe, _LLAMA3_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|end_of_text|>"
    )


@cache
def gemma_tokenizer() -> Any:
    """As Gemma's: blanks and line ends among the added tokens, HTML tags too; the template refuses the system role."""
    from tokenizers import decoders, normalizers, pre_tokenizers, processors

    plain = ["\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<table>", "</table>", "<b>"]
    bpe = _sentencepiece(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], plain)
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return _wrap(bpe, _GEMMA_TEMPLATE, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@cache
def unigram_tokenizer() -> Any:
    """As T5's: NFKC, no byte fallback, and a vocabulary in which the special tokens are ordinary pieces too."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    learned = Tokenizer(models.Unigram())
    learned.normalizer = normalizers.NFKC()
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=300, initial_alphabet=_PRINTABLE, show_progress=False)
    learned.train_from_iterator(SENTENCES[:7], trainer)
    pieces = [piece for piece in json.loads(learned.to_str())["model"]["vocab"] if piece[0] not in _UNIGRAM_SPECIAL]
    unigram = Tokenizer(models.Unigram([*((s, -1.0) for s in _UNIGRAM_SPECIAL), *map(tuple, pieces)], unk_id=2))
    unigram.normalizer, unigram.pre_tokenizer = learned.normalizer, learned.pre_tokenizer
    unigram.decoder = decoders.Metaspace(prepend_scheme="always")
    return _wrap(unigram, _plain_template("</s>"), pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@cache
def neox_tokenizer() -> Any:
    """As GPT-NeoX's: runs of blanks are added tokens, which are not special."""
    runs = [" " * count for count in range(24, 1, -1)]
    bpe = _byte_level(["<|endoftext|>", "<|padding|>"], runs)
    return _wrap(
        bpe, _plain_template("<|endoftext|>"), bos_token="<|endoftext|>", eos_token="<|endoftext|>",
        unk_token="<|endoftext|>", pad_token="<|padding|>",
    )  # fmt: skip


@cache
def tilde_tokenizer() -> Any:
    """Its end token is one character of the byte alphabet, which no cutting can hide."""
    return _wrap(_byte_level(["~", "<|pad|>"], []), _plain_template("~"), eos_token="~", pad_token="<|pad|>")


@cache
def gpt2_tokenizer() -> Any:
    """The real GPT-2 vocabulary; skips the test where it is absent."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary, merges = (REAL_DATA / "models" / name for name in ("gpt2_vocab.json", "gpt2_merges.txt"))
    if not vocabulary.is_file():
        pytest.skip(f"no GPT-2 vocabulary at {vocabulary}; set ALIGNER_REAL_DATA to the directory that holds the data")
    bpe = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    bpe.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    return _wrap(bpe, _plain_template(end), bos_token=end, eos_token=end, unk_token=end)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte_bpe": byte_bpe_tokenizer,
    "chatml": chatml_tokenizer,
    "llama2": llama2_tokenizer,
    "llama3": llama3_tokenizer,
    "gemma": gemma_tokenizer,
    "unigram": unigram_tokenizer,
    "neox": neox_tokenizer,
    "tilde": tilde_tokenizer,
    "gpt2": gpt2_tokenizer,
}
BYTE_LEVEL = ("byte_bpe", "chatml", "llama3", "neox", "tilde", "gpt2")


def altered(tokenizer: Any, **changes: Any) -> Any:
    """A copy with some attributes set otherwise; the cached one stays as it is."""
    changed = copy.deepcopy(tokenizer)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def tiny_model(kind: str, tokenizer: Any, seed: int = 0, *, context: int = 512) -> Any:
    """A model of at most about 90k parameters, in eval mode; `tokenizer` may be a vocabulary's size.

    A kind such as "mistral/8" looks back only 8 tokens; those that mix layers do so in the first of the two.

    Weights are drawn wider than for training, so that greedy choices differ from place to place and are no near-ties.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    kind, _, window = kind.partition("/")
    if window:
        sizes["sliding_window"] = int(window)
    if window and kind.startswith("gemma"):
        sizes["layer_types"] = ["sliding_attention", "full_attention"]
    if kind == "gpt_neox":
        del sizes["head_dim"]
    else:
        sizes["num_key_value_heads"] = 1
    size = tokenizer if isinstance(tokenizer, int) else len(tokenizer)
    tokens = {
        name: None if isinstance(tokenizer, int) else getattr(tokenizer, name)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = AutoConfig.for_model(
        kind, vocab_size=size, num_attention_heads=3, max_position_embeddings=context, tie_word_embeddings=False,
        initializer_range=0.5, **sizes, **tokens,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Gemma 2 squashes its attention, which sdpa cannot do.
        attention = "eager" if kind == "gemma2" else "sdpa"
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def tiny_aligner(
    kind: str = "llama",
    tokenizer: Any = None,
    *,
    prompt: str = "chat",
    seed: int = 0,
    context: int = 512,
    **options: Any,
) -> Aligner:
    """An untrained corrector on a tiny model; `options` go to `Aligner`."""
    tokenizer = tokenizer or byte_bpe_tokenizer()
    card = AlignerCard(prompt=PromptFormat.preset(prompt, tokenizer))
    return Aligner(tiny_model(kind, tokenizer, seed, context=context), tokenizer, card, **options)


def _byte_level(special: list[str], added: list[str], whole_words: list[str] | None = None) -> Any:
    """A byte-level BPE. `whole_words` stand in the vocabulary with no merges that lead to them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learned.train_from_iterator(SENTENCES, trainer)
    vocabulary, merges = _vocabulary(learned)
    for word in whole_words or []:
        vocabulary[word] = len(vocabulary)
    bpe = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=bool(whole_words)))
    bpe.pre_tokenizer = learned.pre_tokenizer
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    bpe.add_tokens([AddedToken(s, special=False, normalized=False) for s in added])
    return bpe


def _sentencepiece(special: list[str], added: list[str]) -> Any:
    """A BPE over characters with "▁" for blanks and a token for every byte, as SentencePiece makes them."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=_PRINTABLE, show_progress=False)
    learned.train_from_iterator(SENTENCES[:7], trainer)
    learned_vocabulary, merges = _vocabulary(learned)
    blanks = ["▁" * count for count in range(1, 5)]
    merges += [("▁", "▁"), ("▁▁", "▁▁"), ("▁▁", "▁")]
    names = [*special, *added, *(f"<0x{byte:02X}>" for byte in range(256)), *learned_vocabulary, *blanks]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    bpe.add_tokens([AddedToken(s, special=False, normalized=False) for s in added])
    return bpe


def _vocabulary(tokenizer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return dict(sorted(model["vocab"].items(), key=lambda item: item[1])), [tuple(pair) for pair in model["merges"]]


def _wrap(backend: Any, template: str, **tokens: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **tokens)
    tokenizer.chat_template = template
    return tokenizer


def writes(aligner: Aligner, text: str, monkeypatch: Any) -> None:
    """Whatever the model would write, it writes this, and no more."""
    aligner.speculate = False
    real = Row.accept

    def accept(self: Row, token: int) -> None:
        ids = [*aligner.codec.encode(text), *aligner._stop_ids]
        real(self, ids[len(self.out)] if len(self.out) < len(ids) else token)

    monkeypatch.setattr(Row, "accept", accept)
