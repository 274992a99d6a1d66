"""Sampled decoding against transformers' own warpers, and against the distribution it claims to draw from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from aligner.correct.decoding import StepLoop
from aligner.correct.sampling import draw, probabilities, row_generator
from aligner.correct.ticket import Request
from aligner.types import Sampling
from tests.models import tiny_model


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 10, 500])
@pytest.mark.parametrize("top_p", [0.1, 0.95, 1.0])
def test_probabilities_equal_the_warpers(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(6, 200, generator=torch.Generator().manual_seed(0)) * 3
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    ours = probabilities(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(ours, expected.softmax(-1), atol=1e-6, rtol=1e-5)


def test_draws_follow_the_probabilities() -> None:
    """Chi-square over 20,000 draws: statistic below the 99.9 % quantile of 11 degrees of freedom (31.26)."""
    sampling = Sampling(temperature=0.8, top_k=12)
    logits = torch.randn(40, generator=torch.Generator().manual_seed(2))
    expected = probabilities(logits[None], sampling)[0]
    generator = torch.Generator().manual_seed(5)
    counts = torch.zeros(40)
    draws = 20_000
    for _ in range(draws):
        counts[draw(logits, sampling, generator)] += 1
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    assert int(kept.sum()) == 12
    statistic = ((counts[kept] - draws * expected[kept]) ** 2 / (draws * expected[kept])).sum()
    assert float(statistic) < 31.26


def test_a_row_draws_the_same_alone_and_in_company() -> None:
    model = tiny_model("llama", 160, seed=0)
    sampling = Sampling(temperature=1.0, seed=7)
    requests = [
        Request(prompt=(20 + i, 30, 40), max_new_tokens=12, stop_ids=frozenset(), sampling=sampling) for i in range(5)
    ]

    def run(requests: list[Request], max_rows: int) -> list[tuple[int, ...]]:
        loop = StepLoop(model, max_rows=max_rows)
        tickets = [loop.submit(r) for r in requests]
        out = [loop.wait(t).ids for t in tickets]
        loop.close()
        return out

    together = run(requests, 5)
    assert together == [run([r], 1)[0] for r in requests]
    assert len(set(together)) == 5, "rows with other prompts draw from other streams"
    other = Request(prompt=(20, 30, 40), max_new_tokens=12, stop_ids=frozenset(), sampling=Sampling(temperature=1.0))
    assert run([other], 1)[0] != together[0], "another seed draws otherwise"


def test_row_generator_depends_on_seed_and_prompt_alone() -> None:
    def first(seed: int, prompt: tuple[int, ...]) -> int:
        return int(torch.randint(0, 2**31, (1,), generator=row_generator(seed, prompt, torch.device("cpu"))))

    assert first(1, (1, 23)) == first(1, (1, 23))
    assert len({first(1, (1, 23)), first(2, (1, 23)), first(1, (12, 3)), first(11, (23,))}) == 4


def test_drafts_do_not_change_what_is_drawn() -> None:
    model = tiny_model("llama", 160, seed=0)
    sampling = Sampling(temperature=0.7, seed=3)
    plain = [
        Request(prompt=(20 + i, 30, 40), max_new_tokens=30, stop_ids=frozenset({5}), sampling=sampling)
        for i in range(8)
    ]
    with StepLoop(model) as loop:
        tickets = [loop.submit(request) for request in plain]
        drawn = [loop.wait(ticket).ids for ticket in tickets]
        steps = loop.forward_passes
    with StepLoop(model) as loop:
        answers = [ids[:9] + ids[11:] for ids in drawn]
        tickets = [loop.submit(replace(r, answer=(*a, 5))) for r, a in zip(plain, answers, strict=True)]
        assert [loop.wait(ticket).ids for ticket in tickets] == drawn
        assert loop.forward_passes < steps


def test_drafted_draws_follow_the_probabilities() -> None:
    """Chi-square over 4,000 rows, of the first two tokens, against the model's own distribution: the likeliest 40
    pairs and all others; statistic below the 99.9 % quantile of 40 degrees of freedom (73.40)."""
    model = tiny_model("llama", 160, seed=0)
    sampling = Sampling(temperature=1.5, top_k=12)
    prompt = (20, 30, 40)
    with torch.inference_mode():
        one = probabilities(model(torch.tensor([prompt])).logits[:, -1], sampling)[0]
        kept = one.nonzero()[:, 0]
        after = torch.tensor([[*prompt, int(token)] for token in kept])
        two = probabilities(model(after).logits[:, -1], sampling)
    joint = {(int(a), int(b)): float(one[a] * two[i, b]) for i, a in enumerate(kept) for b in two[i].nonzero()[:, 0]}
    likely = sorted(joint, key=lambda pair: -joint[pair])[:40]
    rows = 4000
    draft = (likely[0][0], likely[0][1], 7, 8)
    with StepLoop(model) as loop:
        tickets = [
            loop.submit(Request(prompt=prompt, max_new_tokens=2, stop_ids=frozenset(), answer=draft,
                                sampling=replace(sampling, seed=seed)))
            for seed in range(rows)
        ]  # fmt: skip
        drawn = [loop.wait(ticket).ids for ticket in tickets]
    assert set(drawn) <= set(joint)
    counts = [drawn.count(pair) for pair in likely]
    expected = [rows * joint[pair] for pair in likely]
    counts.append(rows - sum(counts))
    expected.append(rows - sum(expected))
    assert min(expected) > 5
    assert sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True)) < 73.40
