"""Open rows: how they join, give way, are cancelled, and save passes over tokens."""

from __future__ import annotations

import pytest
import torch

from aligner.correct.decoding import StepLoop
from aligner.correct.forward import Forward
from aligner.correct.passes import Passes
from aligner.correct.reading import Reading
from aligner.correct.ticket import Request
from tests.models import tiny_model
from tests.reading import followed


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", 160)


PROMPT = tuple(range(20, 80))


def request(prompt=PROMPT, new: int = 8) -> Request:
    return Request(prompt=prompt, max_new_tokens=new, stop_ids=frozenset())


def test_only_what_is_new_is_read(model, monkeypatch) -> None:
    widths: list[tuple[int, int]] = []
    forward = Forward.__call__

    def spy(self, tokens, starts, wanted, first):
        widths.append((starts[0], tokens.shape[1]))
        return forward(self, tokens, starts, wanted, first)

    with StepLoop(model) as loop:
        expected = loop.wait(loop.submit(request())).ids
        monkeypatch.setattr(Forward, "__call__", spy)
        reading = loop.open(PROMPT[:40])
        loop.turn()
        loop.read(reading, (*PROMPT[:50], 99, 98))
        loop.turn()
        assert loop.open_rows == 1
        assert loop.wait(loop.submit(request(), reading=reading)).ids == expected
        assert widths[:3] == [(0, 40), (40, 12), (50, 10)]
        assert loop.open_rows == 0


def test_an_open_row_shares_what_it_has_read_and_not_what_is_wanted_of_it(model, monkeypatch) -> None:
    with StepLoop(model) as loop:
        expected = loop.wait(loop.submit(request())).ids
        with followed(loop, monkeypatch):
            reading = loop.open((*PROMPT[:40], 99, 98))
            other = loop.open((99, *PROMPT[1:40]))
            loop.turn()
            loop.read(reading, (99, 98))  # it is cropped only when it is read on
            loop.read(other, PROMPT)
            ticket = loop.submit(request())
            loop.turn()
            assert loop.shared_tokens == 40
            assert (reading.read, other.read) == ((99, 98), PROMPT)
            assert loop.wait(ticket).ids == expected
            assert loop.wait(loop.submit(request(), reading=other)).ids == expected


def test_a_prompt_that_was_read_to_its_end_still_gets_its_last_logits(model) -> None:
    with StepLoop(model) as loop:
        expected = loop.wait(loop.submit(request())).ids
        reading = loop.open((*PROMPT, 99, 98))
        loop.turn()
        assert loop.wait(loop.submit(request(), reading=reading)).ids == expected


def test_there_are_at_most_as_many_open_rows_as_rows(model) -> None:
    with StepLoop(model, max_rows=2) as loop:
        readings = [loop.open(PROMPT[: 10 + i]) for i in range(5)]
        loop.turn()
        assert loop.open_rows == 2
        assert not loop.turn(), "nothing can be done for those that wait"
        loop.leave(readings[0])
        while loop.turn():
            pass
        assert [r.state for r in readings] == ["gone", "open", "open", "waiting", "waiting"]
        assert loop.open_rows == 2
        for reading in readings:
            loop.leave(reading)
        while loop.turn():
            pass
        assert loop.open_rows == 0


def test_open_rows_give_way_to_rows_that_write(model) -> None:
    with StepLoop(model, cache_tokens=150) as loop:
        readings = [loop.open(PROMPT) for _ in range(2)]
        loop.turn()
        assert loop.open_rows == 2
        ticket = loop.submit(request())
        loop.turn()
        assert [r.state for r in readings] == ["open", "gone"]
        expected = loop.wait(ticket).ids
        assert loop.wait(loop.submit(request(), reading=readings[1])).ids == expected
        assert loop.wait(loop.submit(request(), reading=readings[0])).ids == expected


@pytest.mark.parametrize("error", [RuntimeError("boom"), torch.OutOfMemoryError("alloc")])
def test_a_pass_that_fails_costs_only_the_reading(model, monkeypatch, error) -> None:
    with StepLoop(model) as loop:
        expected = loop.wait(loop.submit(request())).ids
        forward = Forward.__call__
        running = loop.submit(request())
        loop.turn()
        monkeypatch.setattr(
            Forward, "__call__",
            lambda self, tokens, starts, wanted, first: (_ for _ in ()).throw(error)
            if not any(count for _, count in wanted) else forward(self, tokens, starts, wanted, first),
        )  # fmt: skip
        reading = loop.open(PROMPT)
        loop.turn()
        assert reading.state == "gone"
        monkeypatch.undo()
        assert loop.wait(running).ids == expected
        assert loop.wait(loop.submit(request(), reading=reading)).ids == expected


def test_ripe_rows_that_run_out_of_memory_together_are_tried_one_by_one(model, monkeypatch) -> None:
    with StepLoop(model) as loop:
        expected = loop.wait(loop.submit(request())).ids
        readings = [loop.open(PROMPT[:n]) for n in (30, 40, 50)]
        loop.turn()
        forward = Forward.__call__

        def small(self, tokens, starts, wanted, first):
            if len(starts) > 1 and tokens.shape[1] > 1:
                raise torch.OutOfMemoryError("alloc")
            return forward(self, tokens, starts, wanted, first)

        monkeypatch.setattr(Forward, "__call__", small)
        tickets = [loop.submit(request(), reading=reading) for reading in readings]
        assert [loop.wait(t).ids for t in tickets] == [expected] * 3


def test_memory_that_runs_out_behind_a_pass_is_no_reason_to_write_otherwise(model, monkeypatch) -> None:
    """The prompts stand in the cache already when the pass is tried again."""
    with StepLoop(model) as loop:
        expected = loop.wait(loop.submit(request())).ids
        readings = [loop.open(PROMPT[:n]) for n in (30, 40)]
        loop.turn()
        accept = Passes._accept

        def small(self, rows, logits):
            if len(rows) > 1 and rows[0].draft.source == "first":
                raise torch.OutOfMemoryError("alloc")
            accept(self, rows, logits)

        monkeypatch.setattr(Passes, "_accept", small)
        tickets = [loop.submit(request(), reading=reading) for reading in readings]
        assert [loop.wait(t).ids for t in tickets] == [expected] * 2


def test_reading_reaches_the_end_of_the_context_and_no_further() -> None:
    model = tiny_model("gpt_neox", 160, context=64)
    with StepLoop(model) as loop:
        long, short = tuple(range(20, 82)), (30, 31, 32)
        expected = [loop.wait(loop.submit(request(p, 2))).ids for p in (long, short)]
        readings = [loop.open(long[:50]), loop.open(short[:1])]
        loop.turn()
        loop.read(readings[0], long)
        loop.read(readings[1], (*short[:1], *range(40, 90)))
        while loop.turn():
            pass
        found = [loop.submit(request(p, 2), reading=r) for p, r in zip((long, short), readings, strict=True)]
        assert [loop.wait(t).ids for t in found] == expected


def test_the_thread_reads_and_sleeps(model) -> None:
    import time

    with StepLoop(model).start() as loop:
        reading = loop.open(PROMPT)
        until = time.monotonic() + 60
        while reading.pending and time.monotonic() < until:
            time.sleep(0.01)
        assert reading.read == PROMPT
        passes = loop.forward_passes
        time.sleep(0.2)
        assert loop.forward_passes == passes
        loop.leave(reading)
        while loop.open_rows and time.monotonic() < until:
            time.sleep(0.01)
        assert loop.open_rows == 0


def test_what_is_common_stays() -> None:
    reading = Reading(wanted=(1, 2, 9), read=(1, 2, 3, 4))
    assert reading.next(10) == (2, (9,))
    assert reading.pending == 1
    reading.wanted = (1, 2, 3)
    assert reading.next(10) == (3, ())
    assert reading.pending == 0


def test_what_comes_while_the_reader_reads_is_not_forgotten(model, monkeypatch) -> None:
    """More of a prompt, or its end, may come from another thread at any time of a turn."""
    with StepLoop(model) as loop:
        first, second = loop.open(PROMPT[:20]), loop.open(PROMPT[:30])
        late = [lambda: loop.read(first, PROMPT[:40]), lambda: loop.leave(second)]
        pending, looks = Reading.pending, iter(range(100))

        def looked_at(reading: Reading) -> int:
            found = pending.fget(reading)
            if reading is second and reading.state == "open" and next(looks) % 2 and late:
                late.pop(0)()  # as the turn ends, after `first` was found to have nothing new
            return found

        monkeypatch.setattr(Reading, "pending", property(looked_at))
        for _ in range(8):
            if not loop.turn():
                break
        assert not late
        assert first.read == PROMPT[:40]
        assert second.state == "gone"
