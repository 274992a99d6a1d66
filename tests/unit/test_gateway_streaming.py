"""Streams through the gateway with a real corrector: read ahead, sentence by sentence, cancelled on both sides."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from aligner import Aligner, PromptFormat, Sampling
from aligner.correct.card import AlignerCard
from aligner.correct.keep_best import KeepBest
from aligner.correct.outcome import ScriptWatch
from aligner.correct.ticket import Row
from aligner.errors import ConfigError
from tests.models import byte_bpe_tokenizer, tiny_aligner, tiny_model, writes
from tests.serving import Call, chat_chunk, chat_stream, standing
from tests.taught import FINE, taught_aligner
from tests.unit.test_gateway import ASK, CHAT, answering, chunks, post, text_of

ANSWER = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 3
SHORT = Sampling(max_new_tokens=12)
STREAM = {**ASK, "stream": True, "aligner": {"return": ["reason", "original"]}}


class Shortest:
    """Scores an answer by how short it is."""

    async def score(self, question: Any, answers: Any) -> list[dict[str, float | None]]:
        return [{"short": -float(len(a))} for a in answers]


def slowly(*texts: str) -> Any:
    async def handler(call: Call) -> None:
        made = [chunk for text in texts for chunk in chat_stream(text)[1:-1]]
        await call.stream([chat_chunk({"role": "assistant", "content": ""}), *made, chat_chunk({}, "stop")], pause=0.01)

    return handler


def streamed(aligner: Aligner, answer: str) -> tuple[str, Any]:
    """What is shown where nothing is read ahead, and the reason at its end."""

    async def main() -> list[Any]:
        return [delta async for delta in aligner.stream("Say it.", answer)]

    deltas = asyncio.run(main())
    return "".join(delta.text for delta in deltas), deltas[-1].kept_because


def until(true: Any, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(true())


def sentence_aligner() -> Aligner:
    tokenizer = byte_bpe_tokenizer()
    form = replace(PromptFormat.preset("chat", tokenizer, instruction="", request=""), unit="sentence")
    model = tiny_model("llama", tokenizer, context=2048)
    return Aligner(model, tokenizer, AlignerCard(prompt=form), sampling=SHORT)


def test_what_is_read_ahead_changes_nothing_of_the_answer() -> None:
    with tiny_aligner(context=2048, sampling=SHORT) as aligner:
        expected, reason = streamed(aligner, ANSWER)
        asked: list[tuple[int, int]] = []
        submit = aligner._loop.submit

        def watched(request: Any, on_token: Any = None, reading: Any = None) -> Any:
            asked.append((len(reading.read) if reading is not None else 0, len(request.prompt)))
            return submit(request, on_token, reading)

        aligner._loop.submit = watched  # type: ignore[method-assign]
        with standing(slowly(ANSWER), aligner) as stand:
            found = chunks(post(stand.url, STREAM))
            page = httpx2.get(stand.url + "/metrics").text
        read, prompt = asked[-1]
        assert read > prompt // 2, "most of the prompt was read while the upstream wrote"
        assert "aligner_read_ahead_total 1.0" in page
        assert text_of(found) == expected
        last = found[-2]["choices"][0]
        assert last["aligner"]["original"] == ANSWER
        assert last["aligner"]["reason"] == reason
        assert until(lambda: not aligner._loop._rows and not aligner._loop.open_rows)


def test_several_choices_are_read_ahead_each_by_itself() -> None:
    async def both(call: Call) -> None:
        made = []
        for i in range(0, len(ANSWER), 9):
            made += [chat_chunk({"content": ANSWER[i : i + 9]}, index=n) for n in (0, 1)]
        await call.stream([*made, chat_chunk({}, "stop", 0), chat_chunk({}, "stop", 1)], pause=0.005)

    with tiny_aligner(context=2048, sampling=SHORT) as aligner:
        expected, _ = streamed(aligner, ANSWER)
        with standing(both, aligner) as stand:
            found = chunks(post(stand.url, STREAM))
        for index in (0, 1):
            assert text_of(found, index) == expected


@pytest.mark.parametrize("phase", ["upstream", "corrector"])
def test_a_client_that_leaves_frees_the_row_and_the_upstream(phase: str, monkeypatch) -> None:
    gone: list[bool] = []

    async def endless(call: Call) -> None:
        await call.send({"type": "http.response.start", "status": 200,
                         "headers": [(b"content-type", b"text/event-stream")]})  # fmt: skip

        for chunk in chat_stream(ANSWER)[: None if phase == "corrector" else -1]:
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await call.send({"type": "http.response.body", "body": data, "more_body": True})
        await call.gone()
        gone.append(True)

    async def leave(url: str, aligner: Aligner) -> None:
        async with httpx2.AsyncClient() as client, client.stream("POST", url + CHAT, json=STREAM, timeout=60) as reply:
            assert reply.status_code == 200
            loop = aligner._loop
            for _ in range(3000):
                if loop.open_rows if phase == "upstream" else loop._rows:
                    return
                await asyncio.sleep(0.01)
            pytest.fail("no row was there")

    with tiny_aligner(context=4096) as aligner:
        # It never stops by itself, so that only leaving can end it.
        aligner._stop_ids = frozenset()
        monkeypatch.setattr(ScriptWatch, "leaks", lambda *_: False)
        with standing(endless, aligner) as stand:
            asyncio.run(leave(stand.url, aligner))
            assert until(lambda: gone), "the upstream sees that nobody listens"
            assert until(lambda: not aligner._loop._rows and not aligner._loop.open_rows)
            assert until(lambda: "aligner_queue_depth 0.0" in httpx2.get(stand.url + "/metrics").text)


def test_a_foreign_script_stops_the_stream_and_is_named(monkeypatch) -> None:
    with tiny_aligner(context=1024) as aligner:
        text = "The fox 猫 sat on the mat."
        ids = iter([*aligner.codec.encode(text), *aligner._stop_ids])

        def accept(self: Any, token: int) -> None:
            real(self, next(ids, token))

        real = Row.accept
        monkeypatch.setattr(Row, "accept", accept)
        aligner.speculate = False
        with standing(slowly("The fox sat."), aligner) as stand:
            found = chunks(post(stand.url, STREAM))
        assert text_of(found) == "The fox "
        assert found[-2]["choices"][0]["aligner"] == {"original": "The fox sat.", "reason": "script_leak", "late": True}


def test_the_last_chunk_tells_the_flags(monkeypatch) -> None:
    with tiny_aligner(context=1024) as aligner:
        writes(aligner, "The 5 foxes sat on the mat.", monkeypatch)
        with standing(slowly("The 4 foxes sat on the mat."), aligner) as stand:
            found = chunks(post(stand.url, {**ASK, "stream": True, "aligner": {"return": ["flags"]}}))
    assert text_of(found) == "The 5 foxes sat on the mat."
    assert found[-2]["choices"][0]["aligner"] == {"flags": ["changed_numbers"]}


def test_the_best_of_several_is_not_read_ahead() -> None:
    with tiny_aligner(context=1024, sampling=SHORT) as aligner:
        best = KeepBest(aligner=aligner, ranker=Shortest(), count=3)
        expected = asyncio.run(best.acorrect("Say it.", ANSWER))
        with standing(slowly(ANSWER), aligner, scorer=f"{__name__}:Shortest", best_of=3) as stand:
            found = chunks(post(stand.url, STREAM))
            assert "aligner_read_ahead_total 0.0" in httpx2.get(stand.url + "/metrics").text
            one = chunks(post(stand.url, {**STREAM, "aligner": {"best_of": 1, "return": True}}))
            assert "aligner_read_ahead_total 1.0" in httpx2.get(stand.url + "/metrics").text
        assert text_of(found) == expected.text
        assert found[-2]["choices"][0]["aligner"]["buffered"] is True
        assert "buffered" not in one[-2]["choices"][0]["aligner"]
        assert until(lambda: not aligner._loop._rows)


def test_the_gate_of_a_request_decides_before_the_first_token() -> None:
    """An answer that is read ahead passes the gate that its request asks for, and no other's."""
    with standing(slowly(FINE.answer), taught_aligner()) as stand:
        body = {**STREAM, "messages": [{"role": "user", "content": FINE.question}]}
        gated = chunks(post(stand.url, {**body, "aligner": {"gate": "balanced", "return": ["gate"]}}))
        plain = chunks(post(stand.url, {**body, "aligner": {"return": ["gate"]}}))
        page = httpx2.get(stand.url + "/metrics").text
    assert text_of(gated) == FINE.answer
    assert gated[-2]["choices"][0]["aligner"]["gate"]["passed"]
    assert plain[-2]["choices"][0]["aligner"] == {"gate": None}
    assert "aligner_read_ahead_total 2.0" in page
    assert 'aligner_answers_total{outcome="passed"} 1.0' in page
    assert "aligner_gate_nats_count 1.0" in page


def test_sentences_are_not_gated() -> None:
    with (
        sentence_aligner() as aligner,
        pytest.raises(ConfigError, match="sentence by sentence"),
        standing(answering("x"), aligner, sentences=True, gate="balanced"),
    ):
        pass


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_sentences_are_sent_before_the_upstream_is_done(path: str) -> None:
    """The upstream waits for the first sentence to arrive before it goes on."""
    told: list[Any] = []

    def events() -> tuple[list[Any], list[Any]]:
        if path == CHAT:
            first = [chat_chunk({"role": "assistant", "content": ""}), chat_chunk({"content": "One. Two. Th"})]
            return first, [chat_chunk({"content": "ree."}), chat_chunk({}, "stop")]
        at = {"output_index": 0, "content_index": 0, "item_id": "i"}
        part = {"type": "output_text", "text": "One. Two. Three.", "annotations": []}
        item = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [part]}
        return [{"type": "response.output_text.delta", **at, "delta": "One. Two. Th"}], [
            {"type": "response.output_text.delta", **at, "delta": "ree."},
            {"type": "response.output_text.done", **at, "text": "One. Two. Three."},
            {"type": "response.completed", "response": {"id": "r", "output": [item]}},
        ]

    async def waits(call: Call) -> None:

        first, rest = events()
        await call.send({"type": "http.response.start", "status": 200,
                         "headers": [(b"content-type", b"text/event-stream")]})  # fmt: skip
        for chunk in (*first, None, *rest):
            if chunk is None:
                end = time.monotonic() + 60
                while not told and time.monotonic() < end:
                    await asyncio.sleep(0.02)
                continue
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await call.send({"type": "http.response.body", "body": data, "more_body": True})
        await call.send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if path == CHAT else b""})

    body = {**STREAM, "aligner": {"return": True}}
    if path != CHAT:
        body = {"model": "m", "input": "Say it.", "stream": True}
    with sentence_aligner() as aligner, standing(waits, aligner, sentences=True) as stand:
        whole = aligner.correct("Say it.", "One. Two. Three.")
        text = ""
        with httpx2.stream("POST", stand.url + path, json=body, timeout=90) as reply:
            for line in reply.iter_lines():
                if ('"content":"' in line and '"content":""' not in line) or '"response.output_text.delta"' in line:
                    told.append(line)
                text += line + "\n"
    assert told
    if path == CHAT:
        found = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
        assert text_of(found) == (whole.completion.text or whole.text)
        assert found[-1]["choices"][0]["finish_reason"] == "stop"
        assert found[-1]["choices"][0]["aligner"]["original"] == "One. Two. Three."
    else:
        found = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]
        shown, done, completed = found[:-2], found[-2], found[-1]
        assert "".join(e["delta"] for e in shown) == done["text"] == (whole.completion.text or whole.text)
        assert completed["type"] == "response.completed"
        assert completed["response"]["output"][0]["content"][0]["text"] == done["text"]


def test_an_upstream_that_breaks_off_ends_what_was_shown() -> None:
    async def breaks(call: Call) -> None:
        await call.stream([chat_chunk({"content": "One. Two. Three. "})], done=False, pause=0.05)

    with sentence_aligner() as aligner, standing(breaks, aligner, sentences=True) as stand:
        found = chunks(post(stand.url, STREAM))
        assert found[-1]["error"]["code"] == "upstream_broke_off"
        assert until(lambda: not aligner._loop._rows and not aligner._loop.open_rows)


def test_sentences_need_a_corrector_of_sentences() -> None:
    with (
        tiny_aligner() as aligner,
        pytest.raises(ConfigError, match="unit=sentence"),
        standing(answering("x"), aligner, sentences=True),
    ):
        pass
