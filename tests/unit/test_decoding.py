"""The step loop's own behaviour: joining, leaving, cancelling, failing, memory, threads."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations, pairwise
from random import Random

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from aligner.correct.decoding import StepLoop
from aligner.correct.forward import Forward
from aligner.correct.pace import Pace
from aligner.correct.ticket import Request, Row, Ticket
from aligner.errors import CheckpointError, ConfigError, GenerationError, OutOfMemoryError
from aligner.types import Sampling
from tests.models import tiny_model


@pytest.fixture
def model():
    return tiny_model("llama", 160, seed=0)


def request(*prompt: int, new: int = 8) -> Request:
    return Request(prompt=prompt or (20, 21, 22), max_new_tokens=new, stop_ids=frozenset())


def test_tokens_are_announced_one_by_one_as_they_are_written(model) -> None:
    seen: list[int] = []
    with StepLoop(model) as loop:
        ticket = loop.submit(request(), on_token=seen.append)
        counts = []
        while not ticket.future.done():
            loop.turn()
            counts.append(len(seen))
    assert counts == [2, 3, 4, 5, 6, 7, 8], (
        "the first turn reads the prompt and takes a step; every other one takes a step"
    )
    assert tuple(seen) == ticket.future.result().ids


def test_stop_id_ends_a_row_and_is_left_out(model) -> None:
    with StepLoop(model) as loop:
        free = loop.wait(loop.submit(request(new=12)))
        stop = free.ids[5]
        first = free.ids.index(stop)
        stopped = loop.wait(loop.submit(Request(prompt=(20, 21, 22), max_new_tokens=12, stop_ids=frozenset({stop}))))
    assert free.finish_reason == "length"
    assert stopped.finish_reason == "stop"
    assert stopped.ids == free.ids[:first]


def test_cancelled_rows_leave_and_the_others_do_not_notice(model) -> None:
    with StepLoop(model, max_rows=3) as loop:
        alone = [loop.wait(loop.submit(request(30 + i, new=20))).ids for i in range(3)]
        tickets = [loop.submit(request(30 + i, new=20)) for i in range(3)]
        waiting = loop.submit(request(40, new=20))
        for _ in range(5):
            loop.turn()
        tickets[0].cancel()
        waiting.cancel()
        results = [loop.wait(t) for t in tickets]
        assert loop.wait(waiting).finish_reason == "cancelled"
        assert loop.wait(waiting).ids == ()
    assert results[0].finish_reason == "cancelled"
    assert results[0].ids == alone[0][: len(results[0].ids)]
    assert 0 < len(results[0].ids) < 20
    assert [r.ids for r in results[1:]] == alone[1:]


def test_a_listener_that_raises_cancels_its_own_row_only(model) -> None:
    def broken(_token: int) -> None:
        raise ValueError("the client is gone")

    with StepLoop(model) as loop:
        bad = loop.submit(request(), on_token=broken)
        good = loop.submit(request(50))
        assert loop.wait(good).finish_reason == "length"
        assert loop.wait(bad).finish_reason == "cancelled"


def test_forward_passes_are_shared(model) -> None:
    """Eight rows of eight tokens cost one prefill and seven steps, not sixty-four passes."""
    with StepLoop(model) as loop:
        tickets = [loop.submit(request(20 + i)) for i in range(8)]
        for t in tickets:
            loop.wait(t)
        assert loop.forward_passes == 8


@pytest.mark.parametrize(("prefill_tokens", "passes"), [(1000, 1), (8, 2), (4, 4), (1, 4)])
def test_prefill_stays_within_its_budget(model, prefill_tokens: int, passes: int) -> None:
    with StepLoop(model, prefill_tokens=prefill_tokens) as loop:
        tickets = [loop.submit(request(20, 21, 22, 23, new=1)) for _ in range(4)]
        loop.turn()
        assert all(t.future.done() for t in tickets)
        assert loop.forward_passes == passes


def test_cache_budget_bounds_rows_times_length(model) -> None:
    """Each row may reach 11 positions: a budget of 25 holds two at a time; one that needs more is let in alone."""
    with StepLoop(model, cache_tokens=25) as loop:
        tickets = [loop.submit(request()) for _ in range(5)]
        large = loop.submit(request(new=40))
        most = 0
        while loop.turn():
            most = max(most, len(loop._rows))
            assert len(loop._rows) * max((r.length for r in loop._rows), default=0) <= 43
            slots, length = loop._cache.capacity
            assert slots * length <= 25 or slots == 1
        assert most == 2
        assert all(len(t.future.result().ids) == 8 for t in tickets)
        assert len(large.future.result().ids) == 40


@pytest.mark.parametrize("error", [RuntimeError("boom"), torch.OutOfMemoryError("alloc"), MemoryError()])
def test_a_failed_step_fails_its_rows_and_the_loop_goes_on(model, monkeypatch, error) -> None:
    with StepLoop(model) as loop:
        tickets = [loop.submit(request(20 + i)) for i in range(2)]
        loop.turn()
        forward = Forward.__call__
        monkeypatch.setattr(Forward, "__call__", lambda *_, **__: (_ for _ in ()).throw(error))
        loop.turn()
        monkeypatch.setattr(Forward, "__call__", forward)
        expected = GenerationError if "boom" in str(error) else OutOfMemoryError
        for ticket in tickets:
            with pytest.raises(expected):
                loop.wait(ticket)
        assert len(loop.wait(loop.submit(request())).ids) == 8


@pytest.mark.parametrize("leaves", [False, True])
def test_a_failed_row_that_was_waited_for_logs_nothing(model, monkeypatch, caplog, leaves) -> None:
    monkeypatch.setattr(Forward, "__call__", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("boom")))

    async def wait(loop: StepLoop) -> None:
        ticket = loop.submit(request())
        waiting = asyncio.create_task(ticket.ended())
        await asyncio.sleep(0)
        if leaves:
            waiting.cancel()
        loop.turn()
        await asyncio.wait([waiting])
        await asyncio.sleep(0.01)
        assert isinstance(ticket.future.exception(), GenerationError)

    with StepLoop(model) as loop:
        asyncio.run(wait(loop))
    gc.collect()
    assert not caplog.records


def test_prefill_that_runs_out_of_memory_is_tried_row_by_row(model, monkeypatch) -> None:
    with StepLoop(model) as loop:
        expected = [loop.wait(loop.submit(request(20 + i))).ids for i in range(3)]
        forward = Forward.__call__

        def small(self, tokens, starts, wanted, first):
            if starts[0] == 0 and len(starts) > 1:
                raise torch.OutOfMemoryError("alloc")
            return forward(self, tokens, starts, wanted, first)

        monkeypatch.setattr(Forward, "__call__", small)
        tickets = [loop.submit(request(20 + i)) for i in range(3)]
        assert [loop.wait(t).ids for t in tickets] == expected


def test_what_prompts_have_in_common_is_read_once_or_not_as_asked(model) -> None:
    head = tuple(20 + i % 50 for i in range(70))
    written, saved = [], []
    for share in (True, False):
        with StepLoop(model, share=share) as loop:
            tickets = [loop.submit(request(*head, 90 + i)) for i in range(6)]
            written.append([loop.wait(ticket).ids for ticket in tickets])
            saved.append(loop.shared_tokens)
    assert written[0] == written[1]
    assert saved == [5 * len(head), 0]


def test_each_question_of_a_batch_is_read_once(model) -> None:
    """Beside what all prompts begin with; and corrections of one answer read all of it once but for its last id."""
    head = tuple(20 + i % 50 for i in range(40))
    questions = [(*head, 90 + i, *head) for i in range(2)]
    prompts = [(*question, 60 + i) for i in range(4) for question in questions] + [(*head, 99)]
    written, saved = [], []
    for share in (True, False):
        with StepLoop(model, share=share) as loop:
            tickets = [loop.submit(request(*prompt)) for prompt in prompts]
            written.append([loop.wait(ticket).ids for ticket in tickets])
            saved.append(loop.shared_tokens)
    assert written[0] == written[1]
    assert saved == [8 * 40 + 2 * 3 * 41, 0]
    with StepLoop(model) as loop:
        tickets = [loop.submit(request(*prompt)) for prompt in prompts[:2] for _ in range(3)]
        assert [loop.wait(ticket).ids for ticket in tickets] == [ids for ids in written[0][:2] for _ in range(3)]
        assert loop.shared_tokens == 5 * 40 + 2 * 2 * 41


def test_a_prompt_with_nothing_in_common_makes_nobody_read_past_the_context() -> None:
    """Rows are read as wide as the widest: beside it, to share what the others begin with saves nothing."""
    config = GPT2Config(vocab_size=120, n_positions=128, n_embd=16, n_layer=2, n_head=2, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    head = tuple(20 + i % 50 for i in range(100))
    prompts = [*((*head, 80 + i) for i in range(6)), tuple(70 + i % 40 for i in range(105))]
    written = []
    for share in (True, False):
        with StepLoop(model, share=share) as loop:
            tickets = [loop.submit(request(*prompt)) for prompt in prompts]
            written.append([loop.wait(ticket).ids for ticket in tickets])
            assert loop.shared_tokens == 0
    assert written[0] == written[1]


def test_many_threads_share_one_loop(model) -> None:
    with StepLoop(model, max_rows=4) as loop:
        expected = [loop.wait(loop.submit(request(20 + i))).ids for i in range(12)]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda i: loop.wait(loop.submit(request(20 + i))).ids, range(12)))
    assert found == expected


def test_with_its_own_thread_nobody_has_to_drive(model) -> None:
    before = threading.active_count()
    loop = StepLoop(model).start()
    assert loop.start() is loop
    ticket = loop.submit(request())
    assert len(ticket.future.result(timeout=30).ids) == 8
    loop.close()
    assert threading.active_count() == before


def test_closing_fails_what_is_unfinished_and_refuses_more(model) -> None:
    loop = StepLoop(model)
    ticket = loop.submit(request())
    loop.turn()
    loop.close()
    with pytest.raises(GenerationError, match="closed"):
        ticket.future.result()
    with pytest.raises(GenerationError, match="closed"):
        loop.submit(request())
    tokens = torch.tensor([[20, 21]])
    assert model(tokens).logits.shape == (1, 2, 160), "the model is as it was: all logits, no hook"


def test_logits_of_other_calls_are_untouched_while_the_loop_lives(model) -> None:
    tokens = torch.tensor([[20, 21, 22]])
    before = model(tokens).logits
    with StepLoop(model) as loop:
        loop.submit(request())
        loop.turn()
        assert torch.equal(model(tokens).logits, before)


def test_bad_requests_are_refused(model) -> None:
    with StepLoop(model) as loop:
        with pytest.raises(ConfigError, match="prompt token"):
            loop.submit(Request(prompt=(), max_new_tokens=3, stop_ids=frozenset()))
        with pytest.raises(ConfigError, match="max_new_tokens"):
            loop.submit(request(new=0))
    with pytest.raises(ConfigError, match="max_rows"):
        StepLoop(model, max_rows=0)


@pytest.mark.parametrize("outside", [160, 1 << 40, -1])
def test_answers_outside_the_model_are_refused(model, outside: int) -> None:
    with StepLoop(model) as loop:
        with pytest.raises(ConfigError, match=r"outside the model's vocabulary of 160; encode it with"):
            loop.submit(replace(request(), answer=(30, outside, 31)))
        assert len(loop.wait(loop.submit(replace(request(), answer=(0, 159)))).ids) == 8


@pytest.mark.parametrize("pace", ["measured", "always"])
def test_an_answer_longer_than_what_may_be_written(model, monkeypatch, pace: str) -> None:
    """Of the draft counts what fits; the row ends where it would have ended, the last token it may have included."""
    if pace == "always":
        monkeypatch.setattr(Pace, "fixed", property(lambda _: float("inf")))
    with StepLoop(model) as loop:
        whole = loop.wait(loop.submit(request(new=20))).ids
        for new in (1, 2, 3, 19):
            before = loop.forward_passes
            found = loop.wait(loop.submit(replace(request(new=new), answer=whole)))
            assert (found.ids, found.finish_reason) == (whole[:new], "length")
            assert pace == "measured" or loop.forward_passes == before + 1


def test_an_answer_that_does_not_fit_the_context_beside_its_prompt(monkeypatch) -> None:
    """The prompt leaves 10 positions of 64; drafts of 30 tokens stay within them, alone and beside a short row."""
    monkeypatch.setattr(Pace, "fixed", property(lambda _: float("inf")))
    model = tiny_model("gpt_neox", 160, context=64)
    long, short = request(*range(20, 74), new=10), request(new=60)
    with StepLoop(model) as loop:
        plain = [loop.wait(loop.submit(r)).ids for r in (long, short)]
        answers = [(*plain[0][:4], 3, *range(30, 55)), plain[1]]
        rows = [replace(r, answer=answer) for r, answer in zip((long, short), answers, strict=True)]
        assert loop.wait(loop.submit(rows[0])).ids == plain[0]
        tickets = [loop.submit(r) for r in rows]
        assert [loop.wait(ticket).ids for ticket in tickets] == plain


def test_models_without_keys_and_values_are_refused() -> None:
    config = MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(CheckpointError, match="MambaForCausalLM"):
        StepLoop(MambaForCausalLM(config))


def test_attention_that_takes_no_mask_of_ours_is_refused(model, monkeypatch) -> None:
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(CheckpointError, match=r"flash_attention_2.*sdpa or eager"):
        StepLoop(model)


def test_an_interrupt_on_the_driving_thread_strands_nobody(model, monkeypatch) -> None:
    """Ctrl-C in the middle of a pass: rows of that pass fail, the loop decodes on."""
    with StepLoop(model) as loop:
        expected = loop.wait(loop.submit(request())).ids
        forward = Forward.__call__
        monkeypatch.setattr(Forward, "__call__", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        tickets = [loop.submit(request()), loop.submit(request(40))]
        with pytest.raises(KeyboardInterrupt):
            loop.wait(tickets[0])
        monkeypatch.setattr(Forward, "__call__", forward)
        for ticket in tickets:
            with pytest.raises(GenerationError, match="interrupted"):
                loop.wait(ticket)
        assert loop.wait(loop.submit(request())).ids == expected


@pytest.mark.parametrize("fails", [1, 2, 3, 6])
def test_memory_that_runs_out_while_the_cache_grows(model, monkeypatch, fails) -> None:
    """Some slab cannot grow, keys or values, in any layer: what ran before goes on, what joins is tried row by row."""
    from aligner.correct import cache

    with StepLoop(model) as loop:
        expected = [loop.wait(loop.submit(request(20 + i, new=30))).ids for i in range(4)]
    with StepLoop(model) as loop:
        first = loop.submit(request(20, new=30))
        for _ in range(4):
            loop.turn()
        calls = 0
        real = cache._fitting

        def fitting(old, like, slots, length):
            nonlocal calls
            if old is None or old.shape[0] < slots or old.shape[2] < length:
                calls += 1
                if calls == fails:
                    raise torch.OutOfMemoryError("alloc")
            return real(old, like, slots, length)

        monkeypatch.setattr(cache, "_fitting", fitting)
        others = [loop.submit(request(20 + i, new=30)) for i in range(1, 4)]
        assert [loop.wait(t).ids for t in [first, *others]] == expected


def budget(monkeypatch: pytest.MonkeyPatch, loop: StepLoop, most: int) -> None:
    """No slab may grow once all of them together would have more than so many positions."""
    from aligner.correct import cache

    real = cache._fitting

    def fitting(old, like, slots, length):
        new = real(old, like, slots, length)
        if new is not old and new.shape[0] * new.shape[2] + held(loop, without=old) > most:
            raise torch.OutOfMemoryError("alloc")
        return new

    monkeypatch.setattr(cache, "_fitting", fitting)


def held(loop: StepLoop, without: torch.Tensor | None = None) -> int:
    slabs = [slab for layer in loop._cache.layers for slab in (layer.keys, layer.values)]
    return sum(slab.shape[0] * slab.shape[2] for slab in slabs if slab is not None and slab is not without)


@pytest.mark.parametrize("alike", [0, 40])
def test_rows_that_fit_one_by_one_are_not_lost_to_what_a_failed_pass_grew(model, monkeypatch, alike) -> None:
    """The pass grows some slabs before memory runs out; or the shared beginning of its rows stands in slots for all."""
    random = Random(0)
    head = tuple(20 + i for i in range(alike))
    prompts = [(*head, *(random.randrange(20, 150) for _ in range(100 - alike))) for _ in range(6)]
    with StepLoop(model) as loop:
        expected = [loop.wait(loop.submit(request(*prompt, new=20))).ids for prompt in prompts]
    with StepLoop(model) as loop:
        fits = 4 * 4 * 128  # keys and values of two layers, four rows, two blocks
        budget(monkeypatch, loop, fits)
        tickets = {prompt: loop.submit(request(*prompt, new=20)) for prompt in prompts}
        loop.turn()
        assert held(loop) <= fits
        while loop.turn():
            pass
        lost = [prompt for prompt, ticket in tickets.items() if ticket.future.exception() is not None]
        assert len(lost) == 2
        for prompt, ids in zip(prompts, expected, strict=True):
            assert prompt in lost or loop.wait(tickets[prompt]).ids == ids
        assert loop._rows == []


def test_a_step_without_the_memory_to_grow_by_half_grows_by_what_it_needs(model, monkeypatch) -> None:
    prompts = [tuple(20 + (i + k) % 130 for i in range(100)) for k in range(2)]
    with StepLoop(model) as loop:
        expected = [loop.wait(loop.submit(request(*prompt, new=120))).ids for prompt in prompts]
    with StepLoop(model) as loop:
        budget(monkeypatch, loop, 4 * 3 * 192)  # as after the prompts are read
        tickets = [loop.submit(request(*prompt, new=120)) for prompt in prompts]
        assert [loop.wait(ticket).ids for ticket in tickets] == expected


def test_the_longest_row_gives_way_where_a_step_does_not_fit(model, monkeypatch) -> None:
    prompts = [tuple(range(20, 20 + n)) for n in (5, 100, 30)]
    with StepLoop(model) as loop:
        expected = [loop.wait(loop.submit(request(*prompt, new=40))).ids for prompt in prompts]
        forward = Forward.__call__

        def small(self, tokens, starts, wanted, first):
            if max(starts) > 120:
                raise torch.OutOfMemoryError("alloc")
            return forward(self, tokens, starts, wanted, first)

        monkeypatch.setattr(Forward, "__call__", small)
        tickets = [loop.submit(request(*prompt, new=40)) for prompt in prompts]
        with pytest.raises(OutOfMemoryError):
            loop.wait(tickets[1])
        assert [loop.wait(tickets[i]).ids for i in (0, 2)] == [expected[0], expected[2]]


def test_a_step_too_wide_for_the_memory_goes_on_without_drafts(model, monkeypatch) -> None:
    with StepLoop(model) as loop:
        written = loop.wait(loop.submit(request(new=40))).ids
        wide = 0
        forward = Forward.__call__

        def small(self, tokens, starts, wanted, first):
            nonlocal wide
            if tokens.shape[1] > 1 and starts[0] > 0:
                wide += 1
                raise torch.OutOfMemoryError("alloc")
            return forward(self, tokens, starts, wanted, first)

        monkeypatch.setattr(Forward, "__call__", small)
        asked = replace(request(new=40), answer=(*written[:10], 19, *written[11:], 19))
        assert loop.wait(loop.submit(asked)).ids == written
        assert wide > 0


def test_passes_of_two_threads_over_one_model_do_not_mix(model) -> None:
    """Both have hooks on its output layer; each has its own rows there."""
    passes = [Forward(model), Forward(model)]
    tokens = [torch.randint(20, 150, (rows, width)) for rows, width in ((2, 3), (4, 9))]
    wanted = [[(1, 1), (0, 2)], [(7, 2), (3, 1), (0, 0), (5, 3)]]

    def logits(i: int) -> torch.Tensor:
        with torch.inference_mode():
            return passes[i](tokens[i], [0] * len(tokens[i]), wanted[i], 0)

    alone = [logits(i) for i in range(2)]
    both = threading.Barrier(2, timeout=20)
    hook = model.model.register_forward_hook(lambda *_: (both.wait(), None)[1])
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(logits, range(2)))
    hook.remove()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)
    for forward in passes:
        forward.close()


def test_memory_that_runs_out_after_tokens_were_announced_fails_the_rows_once(model, monkeypatch) -> None:
    from aligner.correct import passes

    seen: list[int] = []
    draws = 0

    def draw(*_):
        nonlocal draws
        draws += 1
        if draws == 2:
            raise torch.OutOfMemoryError("alloc")
        return 33

    monkeypatch.setattr(passes, "draw", draw)
    hot = [
        Request(prompt=(20 + i,), max_new_tokens=5, stop_ids=frozenset(), sampling=Sampling(temperature=1))
        for i in (0, 1)
    ]
    with StepLoop(model) as loop:
        tickets = [loop.submit(r, on_token=seen.append) for r in hot]
        for ticket in tickets:
            with pytest.raises(OutOfMemoryError):
                loop.wait(ticket)
        assert seen == [33]
        assert len(loop.wait(loop.submit(request())).ids) == 8


def test_a_fault_outside_a_pass_strands_nobody(model, monkeypatch) -> None:
    loop = StepLoop(model).start()
    monkeypatch.setattr(loop, "_retain", lambda *_: (_ for _ in ()).throw(RuntimeError("a fault")))
    short, long = loop.submit(request(new=2)), loop.submit(request(new=60))
    assert len(short.future.result(timeout=30).ids) == 2
    with pytest.raises(GenerationError):
        long.future.result(timeout=30)
    monkeypatch.undo()
    assert len(loop.submit(request()).future.result(timeout=30).ids) == 8
    loop.close()


def test_closing_while_another_thread_waits(model) -> None:
    loop = StepLoop(model)
    ticket = loop.submit(request(new=400))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.wait, ticket)
        while loop.forward_passes < 3:
            time.sleep(0.001)
        loop.close()
        with pytest.raises(GenerationError, match="closed"):
            waiting.result(timeout=30)


def test_models_that_take_no_positions_are_refused() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    with pytest.raises(CheckpointError, match="no position_ids"):
        StepLoop(BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2)))


def test_nan_in_unused_cache_does_not_reach_any_row(model) -> None:
    """A long row leaves garbage in its slot; the short row that takes the slot must not see it."""
    with StepLoop(model, max_rows=2) as loop:
        expected = loop.wait(loop.submit(request(99, new=10))).ids
        loop.wait(loop.submit(request(*range(20, 60), new=30)))
        both = [loop.submit(request(99, new=10)), loop.submit(request(*range(20, 50), new=10))]
        assert loop.wait(both[0]).ids == expected


@pytest.mark.parametrize("fixed", [0.0, 5.0, 64.0, 1000.0, math.inf])
@pytest.mark.parametrize("seed", range(5))
def test_rows_that_join_share_passes_that_cost_the_least(fixed: float, seed: int) -> None:
    random = Random(seed)
    rows = [
        Row(ticket=Ticket(request(*range(20, 20 + random.randrange(1, 120))), None), length=0)
        for _ in range(random.randrange(1, 9))
    ]

    def cost(groups: Iterable[Sequence[Row]]) -> float:
        return sum(fixed + len(group) * max(len(r.ticket.request.prompt) for r in group) for group in groups)

    model = tiny_model("llama", 160)
    with StepLoop(model) as loop:
        groups = list(loop._joining.groups(list(rows), fixed))
    assert sorted(map(id, (r for group in groups for r in group))) == sorted(map(id, rows))
    ordered = sorted(rows, key=lambda r: len(r.ticket.request.prompt))
    borders = range(1, len(rows))
    ways = (cut for count in range(len(rows)) for cut in combinations(borders, count))
    best = min(cost(ordered[a:b] for a, b in pairwise((0, *cut, len(rows)))) for cut in ways)
    assert cost(groups) == pytest.approx(best)
    if fixed == math.inf:
        assert len(groups) == 1


def test_short_prompts_are_not_padded_to_long_ones(model, monkeypatch) -> None:
    monkeypatch.setattr(Pace, "fixed", 8.0)
    read = []

    def add(_module: object, _args: object, inputs: dict) -> None:
        read.append(inputs["input_ids"].shape)

    prompts = [tuple(range(20 + i, 20 + i + length)) for i, length in enumerate([3, 100, 4, 3, 101])]
    hook = model.register_forward_pre_hook(add, with_kwargs=True)
    with StepLoop(model) as loop:
        tickets = [loop.submit(request(*prompt, new=1)) for prompt in prompts]
        together = [loop.wait(ticket).ids for ticket in tickets]
        hook.remove()
        alone = [loop.wait(loop.submit(request(*prompt, new=1))).ids for prompt in prompts]
    assert together == alone
    assert read == [(2, 101), (3, 4)]
