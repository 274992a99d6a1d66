"""A prompt that is read while it is written decodes to what the whole prompt decodes to, whatever came between."""

from __future__ import annotations

import random

import pytest
import torch

from aligner.correct.decoding import StepLoop
from aligner.correct.passes import Passes
from aligner.correct.ticket import Request
from tests.models import tiny_model
from tests.parity.test_decoding_hf import KINDS, STOPS, VOCABULARY, decode, differing, random_prompts
from tests.reading import followed


def read_ahead(model, prompts, new: int, rng: random.Random, monkeypatch, answers=None, **options) -> list[list[int]]:
    """Every prompt grows piece by piece, its last ids changing, among rows that write; some are read whole at once."""
    loop = StepLoop(model, **options)
    versions = [[*p[: rng.randint(0, len(p))], *[rng.randrange(20, VOCABULARY) for _ in range(3)]] for p in prompts]
    readings = {i: loop.open(tuple(v)) for i, v in enumerate(versions) if i % 3}
    tickets = {}
    with followed(loop, monkeypatch):
        while len(tickets) < len(prompts) or any(not t.future.done() for t in tickets.values()):
            for i, prompt in enumerate(prompts):
                if i in tickets:
                    continue
                if rng.random() < 0.3:
                    answer = tuple(answers[i]) if answers else ()
                    request = Request(prompt=tuple(prompt), max_new_tokens=new, stop_ids=STOPS, answer=answer)
                    tickets[i] = loop.submit(request, reading=readings.get(i))
                elif i in readings:
                    tail = [rng.randrange(20, VOCABULARY) for _ in range(rng.randint(0, 3))]
                    loop.read(readings[i], (*prompt[: rng.randint(0, len(prompt))], *tail))
                    if rng.random() < 0.1:
                        loop.leave(readings.pop(i))
            loop.turn()
    loop.close()
    return [list(tickets[i].future.result().ids) for i in range(len(prompts))]


@pytest.mark.parametrize("kind", KINDS)
def test_decodes_what_the_whole_prompt_does(kind: str, monkeypatch) -> None:
    model = tiny_model(kind, VOCABULARY, seed=4)
    for case, options in enumerate(({}, {"max_rows": 3}, {"prefill_tokens": 64}, {"cache_tokens": 400})):
        prompts = random_prompts(case, 16, 40)
        rng = random.Random(case)
        answers = [[*p[len(p) // 2 :], min(STOPS)] for p in prompts] if case % 2 else None
        theirs = decode(model, prompts, 12, max_rows=64, prefill_tokens=8192, joins=[0] * 16, answers=answers)
        ours = read_ahead(model, prompts, 12, rng, monkeypatch, answers, **options)
        assert differing(model, prompts, ours, theirs)[1] == []


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
@pytest.mark.parametrize("options", [{}, {"max_rows": 3}, {"cache_tokens": 600}])
def test_prompts_that_begin_alike_share_with_open_rows_too(kind: str, options: dict, monkeypatch) -> None:
    """The joiner, what was read ahead, and rows that write have 40 ids in common; what the slots hold is followed."""
    model = tiny_model(kind, VOCABULARY, seed=4)
    shared = []
    share = Passes._share

    def counted(self, prompts, reads):
        lengths, read = share(self, prompts, reads)
        shared.append(min(lengths))
        return lengths, read

    monkeypatch.setattr(Passes, "_share", counted)
    for case in range(4):
        rng = random.Random(case)
        instruction = [rng.randrange(20, VOCABULARY) for _ in range(40)]
        prompts = [[*instruction, *p] for p in random_prompts(case, 12, 30)]
        answers = [[*p[len(p) // 2 :], min(STOPS)] for p in prompts] if case % 2 else None
        theirs = decode(model, prompts, 12, max_rows=64, prefill_tokens=8192, joins=[0] * 12, answers=answers)
        shared.clear()
        ours = read_ahead(model, prompts, 12, rng, monkeypatch, answers, **options)
        assert differing(model, prompts, ours, theirs)[1] == []
        assert max(shared, default=0) >= 32, "something was shared"


@pytest.mark.parametrize(
    ("kind", "implementation"), [("mistral", "sdpa"), ("gemma2", "eager"), ("gemma3_text", "sdpa")]
)
def test_sliding_windows(kind: str, implementation: str, monkeypatch) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=256, num_key_value_heads=2, head_dim=8, sliding_window=8,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    prompts = random_prompts(2, 9, 30)
    theirs = decode(model, prompts, 12, max_rows=64, prefill_tokens=8192, joins=[0] * 9)
    ours = read_ahead(model, prompts, 12, random.Random(3), monkeypatch)
    assert differing(model, prompts, ours, theirs)[1] == []
