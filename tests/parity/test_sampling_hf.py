"""Sampled decoding against transformers' own warpers, and against the distribution it claims to draw from."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from aligner.correct.decoding import StepLoop
from aligner.correct.pace import Pace
from aligner.correct.passes import Passes
from aligner.correct.sampling import draw, probabilities, row_generator
from aligner.correct.ticket import Request
from aligner.types import Sampling
from tests.models import tiny_model
from tests.parity.test_decoding_hf import edited


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


@pytest.mark.parametrize("pace", ["measured", "always"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["llama", "qwen3", "gpt_neox", "mistral/8"]),
    seed=st.integers(0, 1000),
    count=st.integers(1, 12),
    max_rows=st.integers(2, 12),
    prefill_tokens=st.integers(1, 400),
)
def test_rows_drafted_in_ragged_batches_draw_what_they_draw_alone(
    pace, kind, seed, count, max_rows, prefill_tokens
) -> None:
    """In float64, so that a batch's other rounding does not tip a draw."""
    rng = random.Random(seed)
    model = tiny_model(kind, 160, seed=seed % 4).double()
    requests = [
        Request(
            prompt=tuple(rng.randrange(20, 160) for _ in range(rng.randint(1, 30))), max_new_tokens=rng.randint(1, 20),
            stop_ids=frozenset({5, 9}),
            sampling=Sampling(temperature=rng.choice((0.5, 1.0, 2.0)), top_k=rng.choice((0, 5)),
                              top_p=rng.choice((0.9, 1.0)), seed=rng.randrange(3)),
        )
        for _ in range(count)
    ]  # fmt: skip
    alone = []
    for request in requests:
        with StepLoop(model) as loop:
            alone.append(loop.wait(loop.submit(request)).ids)
    answers = [(*edited(rng, ids), 5) for ids in alone]
    with pytest.MonkeyPatch.context() as patch, StepLoop(
        model, max_rows=max_rows, prefill_tokens=prefill_tokens
    ) as loop:  # fmt: skip
        if pace == "always":
            patch.setattr(Pace, "fixed", property(lambda _: float("inf")))
        tickets = []
        for request, answer in zip(requests, answers, strict=True):
            tickets.append(loop.submit(replace(request, answer=answer)))
            for _ in range(rng.choice((0, 0, 1, 3))):
                loop.turn()
        assert [loop.wait(ticket).ids for ticket in tickets] == alone


def test_drafted_draws_follow_the_probabilities(monkeypatch) -> None:
    """Chi-square over 4,000 rows of four tokens, drafted at every step: of the second to the fourth, against the
    model's own distribution. The likeliest 40 triples and all others; statistic below the 99.9 % quantile of 40
    degrees of freedom (73.40)."""
    model = tiny_model("llama", 160, seed=0)
    sampling = Sampling(temperature=1.5, top_k=4)
    prompt = (20, 30, 40)
    whole: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(4):
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *begun] for begun in whole])).logits[:, -1]
        after = probabilities(logits, sampling)
        whole = {
            (*begun, int(token)): chance * float(row[token])
            for (begun, chance), row in zip(whole.items(), after, strict=True)
            for token in row.nonzero()[:, 0]
        }
    joint: Counter[tuple[int, ...]] = Counter()
    for ids, chance in whole.items():
        joint[ids[1:]] += chance
    likely = sorted(joint, key=lambda ids: -joint[ids])[:40]
    rows = 4000
    plain = [
        Request(prompt=prompt, max_new_tokens=4, stop_ids=frozenset(), sampling=replace(sampling, seed=seed))
        for seed in range(rows)
    ]
    monkeypatch.setattr(Pace, "fixed", property(lambda _: float("inf")))
    read = 0
    accept = Passes._accept

    def counted(self: Passes, rows, logits) -> None:
        nonlocal read
        read += len(rows)
        accept(self, rows, logits)

    monkeypatch.setattr(Passes, "_accept", counted)
    draft = max(whole, key=whole.__getitem__)
    drawn = {}
    for name, answer, count in (("plain", (), 100), ("drafted", draft, rows)):
        read = 0
        with StepLoop(model) as loop:
            tickets = [loop.submit(replace(request, answer=answer)) for request in plain[:count]]
            drawn[name] = [loop.wait(ticket).ids for ticket in tickets]
        assert read / count == 4 if name == "plain" else read / count < 3.9, "drafts were right"
    assert drawn["drafted"][:100] == drawn["plain"]
    assert set(drawn["drafted"]) <= set(whole)
    found = Counter(ids[1:] for ids in drawn["drafted"])
    counts = [found[ids] for ids in likely]
    expected = [rows * joint[ids] for ids in likely]
    counts.append(rows - sum(counts))
    expected.append(rows - sum(expected))
    assert min(expected) > 5
    assert sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True)) < 73.40
