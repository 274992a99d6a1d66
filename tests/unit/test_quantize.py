"""Weights in 8 and 4 bits, where bitsandbytes is installed; a clear error where it is not."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from aligner.correct.aligner import Aligner
from aligner.errors import ConfigError
from aligner.generate import hf
from tests.models import tiny_aligner

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")  # of the library, about casts
@pytest.mark.parametrize(("quantize", "bits"), [("int8", torch.int8), ("int4", torch.uint8)])
def test_a_quantised_corrector_corrects_with_smaller_weights(quantize, bits, tmp_path) -> None:
    with tiny_aligner("llama") as whole:
        whole.save_pretrained(tmp_path)
        size = whole.model.get_memory_footprint()
    with Aligner.from_pretrained(tmp_path, device="cpu", quantize=quantize) as small:
        assert small.model.model.layers[0].mlp.up_proj.weight.dtype == bits
        assert small.model.get_memory_footprint() < size
        correction = small.correct("How do I boil rice?", "Wash it first.")
        assert correction.completion.finish_reason in ("stop", "length")
        assert correction.completion.error is None


def test_without_bitsandbytes_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hf, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"bitsandbytes is missing; pip install 'aligner\[quant\]'"):
        hf.load_causal_lm(tmp_path, quantize="int4")
