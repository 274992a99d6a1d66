"""The step loop against transformers' generate(): the same tokens, whatever the batch, the padding and the joining."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aligner.correct.decoding import StepLoop
from aligner.correct.pace import Pace
from aligner.correct.ticket import Request
from tests.models import tiny_model

KINDS = ["llama", "qwen2", "qwen3", "gemma", "gpt_neox"]
WINDOWED = ["mistral/8", "gemma2/8", "gemma3_text/8"]  # in which most prompts and drafts are longer than the window
VOCABULARY = 160
STOPS = frozenset({2, 11, 17})
TIE = 1e-5


def reference(
    model, prompts: Sequence[Sequence[int]], new: int, pad_left: int, stops: frozenset[int] = STOPS
) -> list[list[int]]:
    """generate() on one left-padded batch, cut at the first stop id."""
    width = max(map(len, prompts)) + pad_left
    tokens = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        output = model.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=sorted(stops) or None,
            pad_token_id=0,
        )
    rows = []
    for row in output[:, width:].tolist():
        end = next((i for i, token in enumerate(row) if token in stops), len(row))
        rows.append(row[:end])
    return rows


def is_tie(model, prefix: Sequence[int]) -> bool:
    """Whether the two likeliest next tokens lie so close that rounding may decide."""
    with torch.inference_mode():
        top = model(torch.tensor([list(prefix)])).logits[0, -1].topk(2).values
    return float(top[0] - top[1]) <= TIE


def differing(model, prompts, ours, theirs) -> tuple[int, list[int]]:
    """(rows that differ at a tie, rows that differ for no such reason)."""
    ties, wrong = 0, []
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine == other:
            continue
        at = next((k for k, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other)))
        if is_tie(model, [*prompts[i], *other[:at]]):
            ties += 1
        else:
            wrong.append(i)
    return ties, wrong


def decode(
    model,
    prompts,
    new: int,
    *,
    max_rows: int,
    prefill_tokens: int,
    joins: Sequence[int],
    answers: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """All prompts through one loop; prompt i is submitted before turn `joins[i]`, with what it may write as a draft."""
    loop = StepLoop(model, max_rows=max_rows, prefill_tokens=prefill_tokens)
    tickets = {}
    turn = 0
    while len(tickets) < len(prompts) or any(not t.future.done() for t in tickets.values()):
        for i, prompt in enumerate(prompts):
            if i not in tickets and joins[i] <= turn:
                answer = tuple(answers[i]) if answers is not None else ()
                tickets[i] = loop.submit(
                    Request(prompt=tuple(prompt), max_new_tokens=new, stop_ids=STOPS, answer=answer)
                )
        loop.turn()
        turn += 1
    loop.close()
    return [list(tickets[i].future.result().ids) for i in range(len(prompts))]


def random_prompts(seed: int, count: int, longest: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(20, VOCABULARY) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def edited(rng: random.Random, tokens: Sequence[int]) -> list[int]:
    """A draft: what will be written, with edits of every kind, or something else."""
    found = [*tokens, min(STOPS)]
    for _ in range(rng.choice((0, 0, 1, 2, 4))):
        at = rng.randrange(len(found))
        span = found[at : at + rng.randint(1, 4)]
        other = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4))]
        match rng.randrange(5):
            case 0:
                found[at : at + len(span)] = other
            case 1:
                found[at:at] = other
            case 2:
                del found[at : at + len(span)]
            case 3:
                found = [*span, *found[:at], *found[at + len(span) :]]
            case _:
                found = found[:at]
        if not found:
            break
    return found if rng.random() < 0.9 else [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 30))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 8, 64])
def test_equals_generate_at_every_batch_size(kind: str, rows: int) -> None:
    model = tiny_model(kind, VOCABULARY, seed=rows)
    prompts = random_prompts(rows, rows, 40)
    theirs = reference(model, prompts, 24, pad_left=3)
    ours = decode(model, prompts, 24, max_rows=64, prefill_tokens=8192, joins=[0] * rows)
    ties, wrong = differing(model, prompts, ours, theirs)
    assert not wrong
    assert ties <= rows // 8


@pytest.mark.parametrize("kind", KINDS)
def test_rows_stop_at_different_times_and_others_take_their_place(kind: str) -> None:
    """Few slots, many rows: every place in the batch is taken several times and the cache is compacted."""
    model = tiny_model(kind, VOCABULARY, seed=3)
    prompts = random_prompts(5, 40, 30)
    theirs = reference(model, prompts, 30, pad_left=0)
    assert len({len(row) for row in theirs}) > 3, (
        "the rows should end at different steps for this test to mean something"
    )
    ours = decode(model, prompts, 30, max_rows=5, prefill_tokens=64, joins=[i // 3 for i in range(40)])
    assert differing(model, prompts, ours, theirs)[1] == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([*KINDS, *WINDOWED]),
    seed=st.integers(0, 3),
    count=st.integers(1, 24),
    longest=st.integers(1, 48),
    max_rows=st.integers(1, 16),
    prefill_tokens=st.integers(1, 200),
    pad_left=st.integers(0, 9),
    data=st.data(),
)
def test_any_batch_any_padding_any_join_order(
    kind, seed, count, longest, max_rows, prefill_tokens, pad_left, data
) -> None:
    model = tiny_model(kind, VOCABULARY, seed=seed)
    prompts = random_prompts(data.draw(st.integers(0, 10_000)), count, longest)
    joins = data.draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
    theirs = reference(model, prompts, 12, pad_left)
    ours = decode(model, prompts, 12, max_rows=max_rows, prefill_tokens=prefill_tokens, joins=joins)
    assert differing(model, prompts, ours, theirs)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *WINDOWED])
def test_many_random_cases(kind: str) -> None:
    """The same as the property tests, over many more models, prompts and orders, two of three cases with drafts; ties
    are counted over all of them."""
    rng = random.Random(1)
    rows = ties = 0
    for case in range(60):
        model = tiny_model(kind, VOCABULARY, seed=100 + case % 6)
        count = rng.choice([1, 2, 5, 16, 64])
        prompts = random_prompts(case, count, rng.choice([1, 8, 60]))
        theirs = reference(model, prompts, 20, rng.randint(0, 5))
        joins = [rng.randint(0, 25) for _ in range(count)]
        answers = [edited(rng, tokens) for tokens in theirs] if case % 3 else None
        ours = decode(model, prompts, 20, max_rows=rng.randint(1, 64), prefill_tokens=rng.randint(1, 400), joins=joins,
                      answers=answers)  # fmt: skip
        tied, wrong = differing(model, prompts, ours, theirs)
        assert not wrong, case
        rows += count
        ties += tied
    print(f"{kind}: {ties} of {rows} rows differ at a tie")  # noqa: T201
    assert ties <= rows // 100


@pytest.mark.parametrize(
    ("kind", "implementation"),
    [("mistral", "sdpa"), ("mistral", "eager"), ("gemma2", "eager"), ("gemma3_text", "sdpa")],
)
def test_sliding_windows(kind: str, implementation: str) -> None:
    """Layers that look back only a few tokens see the same few, and mixed layers each their own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    shape = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        **shape,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    prompts = random_prompts(2, 9, 30)
    theirs = reference(model, prompts, 16, pad_left=0)
    joins = [i // 2 for i in range(9)]
    ours = decode(model, prompts, 16, max_rows=4, prefill_tokens=64, joins=joins)
    assert differing(model, prompts, ours, theirs)[1] == []
    rng = random.Random(4)
    answers = [edited(rng, tokens) for tokens in theirs]
    ours = decode(model, prompts, 16, max_rows=4, prefill_tokens=64, joins=joins, answers=answers)
    assert differing(model, prompts, ours, theirs)[1] == []


@pytest.mark.parametrize("kind", WINDOWED)
@pytest.mark.parametrize("shared", [0, 40])
def test_drafts_and_shared_beginnings_longer_than_the_window(kind: str, shared: int, monkeypatch) -> None:
    """Copies are verified in one pass, whole or with one edit, though no layer of some of the models sees all of it."""
    model = tiny_model(kind, VOCABULARY, seed=2)
    begun = [20 + 7 * i % 140 for i in range(shared)]
    monkeypatch.setattr(Pace, "fixed", property(lambda _: 64.0))
    prompts = [[*begun, *tail] for tail in random_prompts(8, 6, 30)]
    plain = [Request(prompt=tuple(p), max_new_tokens=24, stop_ids=frozenset()) for p in prompts]
    with StepLoop(model) as loop:
        tickets = [loop.submit(request) for request in plain]
        written = [loop.wait(ticket).ids for ticket in tickets]
        steps = loop.forward_passes
    free = reference(model, prompts, 24, pad_left=0, stops=frozenset())
    assert differing(model, prompts, list(map(list, written)), free)[1] == []
    edits = [ids if i % 2 else (*ids[:11], 3, *ids[12:]) for i, ids in enumerate(written)]
    for answers, most in ((written, 2), (edits, steps // 2)):
        with StepLoop(model) as loop:
            requests = [replace(request, answer=tuple(ids)) for request, ids in zip(plain, answers, strict=True)]
            tickets = [loop.submit(request) for request in requests]
            assert [loop.wait(ticket).ids for ticket in tickets] == written
            assert loop.forward_passes <= most
            assert (loop.shared_tokens > 0) == (shared > 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([*KINDS, "mistral", *WINDOWED]),
    seed=st.integers(0, 1000),
    count=st.integers(1, 20),
    max_rows=st.integers(1, 16),
    prefill_tokens=st.integers(1, 400),
    pad_left=st.integers(0, 9),
    pace=st.sampled_from(["measured", "always", "never"]),
    data=st.data(),
)
def test_whatever_is_drafted_the_tokens_are_those_of_generate(
    kind, seed, count, max_rows, prefill_tokens, pad_left, pace, data
) -> None:
    rng = random.Random(seed)
    model = tiny_model(kind, VOCABULARY, seed=seed % 4)
    prompts = random_prompts(seed, count, 30)
    theirs = reference(model, prompts, 24, pad_left)
    joins = [data.draw(st.integers(0, 12)) for _ in prompts]
    answers = [edited(rng, tokens) for tokens in theirs]
    with pytest.MonkeyPatch.context() as patch:
        if pace != "measured":
            patch.setattr(Pace, "fixed", property(lambda _: float("inf") if pace == "always" else 0.0))
        ours = decode(model, prompts, 24, max_rows=max_rows, prefill_tokens=prefill_tokens, joins=joins,
                      answers=answers)  # fmt: skip
    assert differing(model, prompts, ours, theirs)[1] == []


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_a_copy_costs_one_pass(kind: str) -> None:
    model = tiny_model(kind, VOCABULARY, seed=1)
    prompts = random_prompts(3, 6, 30)
    plain = [Request(prompt=tuple(p), max_new_tokens=40, stop_ids=frozenset()) for p in prompts]
    with StepLoop(model) as loop:
        tickets = [loop.submit(request) for request in plain]
        written = [loop.wait(ticket).ids for ticket in tickets]
        assert loop.forward_passes == 40
    with StepLoop(model) as loop:
        tickets = [
            loop.submit(replace(request, answer=ids)) for request, ids in zip(plain, written, strict=True)
        ]  # fmt: skip
        assert [loop.wait(ticket).ids for ticket in tickets] == written
        assert loop.forward_passes == 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([*KINDS, "mistral", *WINDOWED]),
    seed=st.integers(0, 1000),
    questions=st.integers(1, 3),
    count=st.integers(1, 12),
    max_rows=st.integers(1, 16),
    data=st.data(),
)
def test_prompts_that_begin_alike_are_read_once_and_the_tokens_stay(
    kind, seed, questions, count, max_rows, data
) -> None:
    rng = random.Random(seed)
    model = tiny_model(kind, VOCABULARY, seed=seed % 4)
    begun = [[rng.randrange(20, VOCABULARY) for _ in range(rng.randint(30, 70))] for _ in range(questions)]
    prompts = [[*rng.choice(begun), *tail] for tail in random_prompts(seed, count, 12)]
    theirs = reference(model, prompts, 12, pad_left=0)
    joins = [data.draw(st.integers(0, 4)) for _ in prompts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "fixed", property(lambda _: 0.0))
        ours = decode(model, prompts, 12, max_rows=max_rows, prefill_tokens=8192, joins=joins,
                      answers=[edited(rng, tokens) for tokens in theirs])  # fmt: skip
    assert differing(model, prompts, ours, theirs)[1] == []


@pytest.mark.parametrize("kind", [*KINDS, "mistral", *WINDOWED])
def test_many_answers_to_one_question_read_it_once(kind: str) -> None:
    model = tiny_model(kind, VOCABULARY, seed=1)
    question = random_prompts(7, 1, 1)[0] * 80
    prompts = [[*question, 30 + i, 31] for i in range(8)]
    with StepLoop(model) as loop:
        requests = [Request(prompt=tuple(p), max_new_tokens=6, stop_ids=STOPS) for p in prompts]
        tickets = [loop.submit(request) for request in requests]
        ours = [list(loop.wait(ticket).ids) for ticket in tickets]
        assert loop.shared_tokens == 7 * 80
        assert not loop._rows
    assert differing(model, prompts, ours, reference(model, prompts, 6, pad_left=0))[1] == []
