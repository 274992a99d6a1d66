"""Weights in 8 and 4 bits, where bitsandbytes is installed; a clear error where it is not."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from aligner.correct.aligner import Aligner
from aligner.correct.card import AlignerCard
from aligner.correct.gate import HeldOutScore, calibrate_scores
from aligner.errors import ConfigError
from aligner.generate import hf
from aligner.prompts import PromptFormat
from aligner.train.config import Scratch
from aligner.train.scratch import build_model
from tests.models import byte_bpe_tokenizer, tiny_model

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")  # of the library, about casts
@pytest.mark.parametrize(("quantize", "bits"), [("int8", torch.int8), ("int4", torch.uint8)])
def test_a_quantised_corrector_corrects_with_smaller_weights(quantize, bits, tmp_path) -> None:
    tokenizer = byte_bpe_tokenizer()
    # Kernels for 4 bits on a CPU take sizes that 32 divides, as those of all real models are.
    model = build_model(Scratch(layers=2, hidden=64, heads=2, feed_forward=128), tokenizer, 512, seed=0)
    with Aligner(model, tokenizer, AlignerCard(prompt=PromptFormat.preset("chat", tokenizer))) as whole:
        whole.save_pretrained(tmp_path)
        size = whole.model.get_memory_footprint()
    with Aligner.from_pretrained(tmp_path, device="cpu", quantize=quantize) as small:
        assert small.model.model.layers[0].mlp.up_proj.weight.dtype == bits
        assert small.model.get_memory_footprint() < size
        if quantize == "int4":
            assert small.model.model.layers[0].mlp.up_proj.compute_dtype == torch.float32
        correction = small.correct("How do I boil rice?", "Wash it first.")
        assert correction.completion.finish_reason in ("stop", "length")
        assert correction.completion.error is None


@pytest.mark.parametrize(
    ("stored", "bits"),
    [({"load_in_4bit": True}, "int4"), ({"load_in_8bit": True}, "int8"), ({"quant_method": "gptq", "bits": 4}, "gptq")],
)
def test_a_gate_for_whole_weights_is_refused_to_a_model_saved_in_fewer_bits(stored, bits) -> None:
    tokenizer = byte_bpe_tokenizer()
    found = calibrate_scores(HeldOutScore(score=-5.0, needed=i > 9, changed=True) for i in range(130))
    card = AlignerCard(prompt=PromptFormat.preset("chat", tokenizer), gate=found)
    model = tiny_model("llama", tokenizer)
    with Aligner(model, tokenizer, card, gate="balanced") as aligner:
        assert aligner.quantize == "none"
    model.config.quantization_config = stored
    with pytest.raises(ConfigError, match=f"calibrated with quantize=none and says nothing of {bits}"):
        Aligner(model, tokenizer, card, gate="balanced")
    with Aligner(model, tokenizer, replace(card, gate=replace(found, quantize=bits)), gate="balanced") as aligner:
        assert aligner.quantize == bits


@needs_bitsandbytes
def test_four_bits_compute_in_the_arithmetic_of_the_rest() -> None:
    def compute(*how: str) -> torch.dtype:
        return hf._quantized("int4", *how)["quantization_config"].bnb_4bit_compute_dtype  # type: ignore[arg-type]

    assert compute("cpu", "auto") == torch.float32
    assert compute("cuda", "auto") == torch.bfloat16
    assert compute("cuda:1", "float16") == torch.float16


def test_without_bitsandbytes_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hf, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"bitsandbytes is missing; pip install 'aligner\[quant\]'"):
        hf.load_causal_lm(tmp_path, quantize="int4")
