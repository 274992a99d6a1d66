"""The step loop beside transformers' generate(): same model, same prompts, same tokens, wall time.

    python benchmarks/decoding.py [--quick] [--json OUT.json]

Each batch size is measured twice: all rows as long as each other and none stopping early (generate()'s best case), and
rows of many lengths that stop at many steps (what corrections are like). Tokens are compared; a row may differ only
where the two likeliest tokens lie within 1e-5, and such rows are counted.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from pathlib import Path

import torch
from common import finish, generate, interleaved, row, step_loop, ties
from transformers import LlamaConfig, LlamaForCausalLM

from aligner.correct.decoding import StepLoop
from aligner.correct.ticket import Request

VOCABULARY = 4096


def build_model(layers: int, hidden: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=layers, num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)  # random models repeat one token for ever; larger weights vary more
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats and tokens")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    repeats, new = (3, 24) if options.quick else (9, 64)
    rng = random.Random(0)
    rows = []
    for size, (layers, hidden) in {"2M": (4, 192), "11M": (6, 384)}.items():
        model = build_model(layers, hidden)
        loop = StepLoop(model)
        for batch in (1, 8, 64):
            for shape in ("even", "ragged"):
                lengths = [64] * batch if shape == "even" else [rng.randint(16, 112) for _ in range(batch)]
                stops = frozenset() if shape == "even" else frozenset(rng.sample(range(VOCABULARY), VOCABULARY // 40))
                prompts = [[rng.randrange(3, VOCABULARY) for _ in range(n)] for n in lengths]
                made = [Request(prompt=tuple(p), max_new_tokens=new, stop_ids=stops) for p in prompts]
                ours, theirs = partial(step_loop, loop, batch, made), partial(generate, model, batch, made)
                tied = ties(model, made, ours(), theirs())
                times = interleaved({"ours": ours, "theirs": theirs}, repeats)
                name = f"{size} batch {batch} {shape}"
                extra = {"new_tokens": new, "tied_rows": tied}
                rows.append(row(name, "generate", "wall time", "s", times["ours"], times["theirs"], **extra))
        loop.close()
    finish(rows, options.json)


if __name__ == "__main__":
    main()
