"""Sampled decoding against transformers' own warpers, and against the distribution it claims to draw from."""

from __future__ import annotations

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
