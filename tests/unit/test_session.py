"""Sessions take the gate, the guards and the format that a corrector, or one view of it, has."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from aligner import Aligner
from aligner.correct.gate import Gate
from aligner.correct.guards import GuardPolicy
from aligner.types import Correction, Delta, as_chat
from tests.models import tiny_aligner, writes

ANSWER = "The fox sat on the mat."


async def finished(aligner: Aligner, answer: str = ANSWER, **options: Any) -> Correction:
    session = aligner.open("q", **options)
    for at in range(0, len(answer), 5):
        session.push(answer[at : at + 5])
        await asyncio.sleep(0)
    return await session.finish()


async def streamed(aligner: Aligner, answer: str = ANSWER, **options: Any) -> list[Delta]:
    session = aligner.open("q", **options)
    session.push(answer)
    return [delta async for delta in session.stream()]


def test_views_with_other_gates_share_the_batch_and_not_the_gate() -> None:
    with tiny_aligner(context=1024) as aligner:
        passing = aligner.with_gate(Gate(threshold=-math.inf))
        assert passing._loop is aligner._loop

        async def both() -> list[Correction]:
            return list(await asyncio.gather(finished(passing), finished(aligner)))

        gated, plain = asyncio.run(both())
        deltas = asyncio.run(streamed(passing))
        assert (gated.text, gated.gate is not None and gated.gate.passed) == (ANSWER, True)
        assert plain.gate is None
        assert plain == aligner.correct("q", ANSWER)
        assert "".join(delta.text for delta in deltas) == ANSWER
        assert deltas[-1].gate is not None
        assert deltas[-1].gate.passed


def test_the_format_is_kept_to(monkeypatch) -> None:
    with tiny_aligner(context=1024) as aligner:
        writes(aligner, "no JSON at all.", monkeypatch)
        form = {"type": "json_object"}
        done = asyncio.run(finished(aligner, '{"a": 1}', response_format=form))
        assert (done.text, done.kept_because) == ('{"a": 1}', "broken_format")
        for options in ({"response_format": form}, {}):  # the answer is JSON, asked for or not
            deltas = asyncio.run(streamed(aligner, '{"a": 1}', **options))
            assert "".join(delta.text for delta in deltas) == '{"a": 1}'
            assert deltas[-1].kept_because == "broken_format"
        assert asyncio.run(finished(aligner)).kept_because is None


def test_a_stream_that_might_not_fit_comes_whole() -> None:
    """Question and answer fit, and leave less room than a copy takes; a model that writes on has none in the end."""
    with tiny_aligner(context=256, guards=GuardPolicy(script_leak="off")) as aligner:
        form, chat = aligner.card.prompt, as_chat("q")

        def left(answer: str) -> int:
            return 256 - len(form.encode(aligner.codec, chat, answer, max_tokens=255).ids)

        answer = "a cat"
        while left(answer) > len(form.encode_correction(aligner.codec, answer)):
            answer += " sat"
        room = left(answer := answer + " sat")
        assert room > 1
        done = aligner.correct("q", answer)
        assert (done.text, done.kept_because, done.completion.finish_reason) == (answer, "too_long", "length")
        assert done.completion.usage.completion_tokens == room
        deltas = asyncio.run(streamed(aligner, answer))
        assert [delta.text for delta in deltas] == [answer, ""]
        assert deltas[-1].kept_because == "too_long"


def test_the_last_piece_has_the_flags(monkeypatch) -> None:
    with tiny_aligner(context=1024) as aligner:
        writes(aligner, "The 5 foxes sat on the mat.", monkeypatch)
        last = asyncio.run(streamed(aligner, "The 4 foxes sat on the mat."))[-1]
        assert last.flags == ("changed_numbers",)


@pytest.mark.parametrize("mode", ["enforce", "report", "off"])
def test_a_foreign_script_stops_a_stream_only_where_that_guard_is_enforced(mode: Any, monkeypatch) -> None:
    with tiny_aligner(context=1024, guards=GuardPolicy(script_leak=mode)) as aligner:
        writes(aligner, "The fox 猫 sat on the mat.", monkeypatch)
        deltas = asyncio.run(streamed(aligner))
        text = "".join(delta.text for delta in deltas)
        if mode == "enforce":
            assert (text, deltas[-1].kept_because) == ("The fox ", "script_leak")
        else:
            assert (text, deltas[-1].kept_because) == ("The fox 猫 sat on the mat.", None)


def test_a_stopped_stream_tells_what_the_gate_decided(monkeypatch) -> None:
    with tiny_aligner(context=1024) as plain:
        wanted = plain.with_gate(Gate(threshold=0.0)).correct("q", ANSWER).gate  # nothing is that certain
        aligner = plain.with_gate(Gate(threshold=0.0))
        writes(aligner, "The fox 猫 sat on the mat.", monkeypatch)
        last = asyncio.run(streamed(aligner))[-1]
        assert last.kept_because == "script_leak"
        assert last.gate is not None
        assert wanted is not None
        assert (last.gate.passed, last.gate.tokens) == (wanted.passed, wanted.tokens) == (False, wanted.tokens)
        assert last.gate.score == pytest.approx(wanted.score, abs=1e-4)
        assert last.usage is not None
        assert last.usage.completion_tokens > 0
