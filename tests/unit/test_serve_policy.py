"""What clients get where the corrector fails, does not fit or has no room; what its server and the log are told."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from aligner import Aligner
from aligner.correct.forward import Forward
from aligner.correct.remote import RemoteAligner
from aligner.correct.sentence_session import SentenceSession
from aligner.types import Completion
from tests.models import llama2_tokenizer, tiny_aligner
from tests.serving import Call, RuleCorrector, Upstream, chat_chunk, chat_reply, chat_stream, serving_app, standing
from tests.unit.test_gateway import ASK, answering, chunks, post, text_of
from tests.unit.test_gateway_streaming import sentence_aligner, slowly, until

STREAM = {**ASK, "stream": True}
THREE = "One. Two. Three."


async def saying(call: Call) -> None:
    """Answers "beta", streamed or not."""
    await (call.stream(chat_stream("beta")) if call.body.get("stream") else call.reply(chat_reply("beta")))


# -- the queue


@pytest.mark.parametrize("policy", ["error", "pass-through"])
def test_a_stream_that_finds_the_queue_full_is_refused_before_the_upstream_is_asked(policy: str) -> None:
    with (
        standing(saying, RuleCorrector(silent=3), max_waiting=1, on_failure=policy) as stand,
        ThreadPoolExecutor() as at,
    ):
        first = at.submit(post, stand.url, ASK)
        while not stand.app.corrected.policy.waiting:
            time.sleep(0.01)
        found = post(stand.url, STREAM)
        calls = len(stand.upstream.calls)
        assert first.result().status_code == 200
    if policy == "error":
        assert (found.status_code, found.json()["error"]["code"]) == (429, "queue_full")
        assert int(found.headers["retry-after"]) >= 1
        assert calls == 1, "nobody paid for an answer that nobody gets"
    else:
        assert (found.status_code, text_of(chunks(found))) == (200, "beta")


def test_a_stream_that_finds_the_queue_full_when_the_upstream_answers_is_refused_too() -> None:
    late = threading.Event()

    async def handler(call: Call) -> None:
        if call.body.get("stream"):
            while not late.is_set():
                await asyncio.sleep(0.01)
        await saying(call)

    with standing(handler, RuleCorrector(silent=3), max_waiting=1) as stand, ThreadPoolExecutor() as at:
        streamed = at.submit(post, stand.url, STREAM)
        while not stand.upstream.calls:
            time.sleep(0.01)
        first = at.submit(post, stand.url, ASK)
        while not stand.app.corrected.policy.waiting:
            time.sleep(0.01)
        late.set()
        found = streamed.result()
        assert first.result().status_code == 200
    assert (found.status_code, "retry-after" in found.headers) == (429, True)


def test_streams_that_began_are_not_refused() -> None:
    async def handler(call: Call) -> None:
        await call.stream(chat_stream("a beta c d"), pause=0.1)

    with standing(handler, RuleCorrector(silent=0.1), max_waiting=1) as stand, ThreadPoolExecutor() as at:
        found = list(at.map(lambda _: post(stand.url, STREAM), range(4)))
        assert stand.app.corrected.policy.waiting == 0
    for reply in found:
        told = reply.json()["error"]["code"] if reply.status_code != 200 else text_of(chunks(reply))
        assert (reply.status_code, told) in ((200, "a omega c d"), (429, "queue_full"))


# -- what does not fit


def test_a_streamed_answer_that_does_not_fit_is_refused_before_its_first_word() -> None:
    with standing(saying, RuleCorrector(keeps="too_long"), strict=True) as stand:
        found = chunks(post(stand.url, STREAM))
        page = httpx2.get(stand.url + "/metrics").text
    assert (text_of(found), found[-1]["error"]["code"]) == ("", "answer_too_long")
    assert 'aligner_kept_total{reason="too_long"} 1.0' in page
    with standing(saying, RuleCorrector(keeps="too_long")) as stand:
        assert text_of(chunks(post(stand.url, STREAM))) == "beta"


# -- sentences


@pytest.fixture(scope="module")
def sentences() -> Iterator[Aligner]:
    with sentence_aligner() as made:
        yield made


def ruled(aligner: Aligner, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Makes "Uno." of "One.", and fails on "Two." or has no room for it."""
    jobs = aligner._jobs()

    def job(chat: Any, answer: str, sampling: Any, **more: Any) -> Any:
        made = jobs.job(chat, answer, sampling, **more)
        return replace(made, request=None) if "Two" in answer and how == "too_long" else made

    def settle(made: Any, ticket: Any) -> Any:
        done = jobs.settle(made, ticket)
        if "Two" in made.answer and how in ("error", "too_long"):
            return replace(done, completion=Completion(text="", finish_reason="error", error="it broke"))
        text = made.answer.replace("One", "Uno")
        return replace(done, completion=Completion(text=text, finish_reason="stop", usage=done.completion.usage))

    monkeypatch.setattr(aligner, "_jobs", lambda _: SimpleNamespace(job=job, settle=settle))
    if how == "slow":
        asked = SentenceSession._asked

        async def slow(self: Any, core: str, behind: str) -> Any:
            await asyncio.sleep(30 if "Two" in core else 0)
            return await asked(self, core, behind)

        monkeypatch.setattr(SentenceSession, "_asked", slow)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("policy", ["error", "pass-through"])
@pytest.mark.parametrize("how", ["error", "slow"])
def test_a_sentence_that_fails_is_a_failure(
    sentences: Aligner,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
    policy: str,
    live: bool,
) -> None:
    ruled(sentences, monkeypatch, how)
    code = "correction_failed" if how == "error" else "correction_timeout"
    settings = {"on_failure": policy, "sentences": live, "correction_timeout": 1.5}
    with standing(slowly(THREE), sentences, **settings) as stand:
        found = chunks(post(stand.url, STREAM))
    if policy == "error":
        assert (text_of(found), found[-1]["error"]["code"]) == ("Uno.", code)
    else:
        assert (text_of(found), found[-1]) == ("Uno. Two. Three.", "[DONE]")
        said = found[-2]["choices"][0]["aligner"]
        assert (said["reason"], said["late"]) == (code, True)
    assert "it broke" not in json.dumps(found), "what it is about is for whoever runs the gateway"
    assert ("it broke" in caplog.text) == (how == "error")
    caplog.clear()
    with standing(answering(THREE), sentences, **settings) as stand:
        whole = post(stand.url, ASK)
    assert "it broke" not in whole.text
    assert ("it broke" in caplog.text) == (how == "error")
    if policy == "error":
        assert (whole.status_code, whole.json()["error"]["code"]) == (502, code)
    else:
        assert whole.json()["choices"][0]["message"]["content"] == THREE
        assert whole.headers["x-aligner-corrected"] == f"false; reason={code}"


@pytest.mark.parametrize("live", [True, False])
def test_a_sentence_that_does_not_fit_is_refused_where_that_is_asked_for(
    sentences: Aligner, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    ruled(sentences, monkeypatch, "too_long")
    for text, shown in (("Two. One.", ""), ("One. Two.", "Uno.")):
        with standing(slowly(text), sentences, strict=True, sentences=live) as stand:
            found = chunks(post(stand.url, STREAM))
        assert (text_of(found), found[-1]["error"]["code"]) == (shown, "answer_too_long")
        with standing(answering(text), sentences, strict=True) as stand:
            whole = post(stand.url, ASK)
        assert (whole.status_code, whole.json()["error"]["code"]) == (413, "answer_too_long")
    with standing(slowly(THREE), sentences, sentences=live) as stand:
        assert text_of(chunks(post(stand.url, STREAM))) == "Uno. Two. Three."


@pytest.mark.parametrize("live", [True, False])
def test_the_sentences_that_stayed_are_told(sentences: Aligner, monkeypatch: pytest.MonkeyPatch, live: bool) -> None:
    ruled(sentences, monkeypatch, "too_long")
    with standing(slowly(THREE), sentences, sentences=live) as stand:
        found = chunks(post(stand.url, {**STREAM, "aligner": {"return": ["flags"]}}))
    assert found[-2]["choices"][0]["aligner"]["flags"] == ["kept_sentences:too_long:1"]


@pytest.mark.parametrize("how", ["too_long", "error"])
def test_a_stream_that_failed_ends_before_its_upstream_does(
    sentences: Aligner, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    ruled(sentences, monkeypatch, how)
    gone: list[bool] = []

    async def endless(call: Call) -> None:
        await call.send({"type": "http.response.start", "status": 200,
                         "headers": [(b"content-type", b"text/event-stream")]})  # fmt: skip
        for text in ("One. ", "Two. ", "Three. "):
            data = b"data: " + json.dumps(chat_chunk({"content": text})).encode() + b"\n\n"
            await call.send({"type": "http.response.body", "body": data, "more_body": True})
        await call.gone()
        gone.append(True)

    with standing(endless, sentences, strict=True, sentences=True) as stand:
        found = chunks(post(stand.url, STREAM))
        assert until(lambda: gone), "nobody waits for what is left"
        page = httpx2.get(stand.url + "/metrics").text
    code = "answer_too_long" if how == "too_long" else "correction_failed"
    assert (text_of(found), found[-1]["error"]["code"]) == ("Uno.", code)
    reason = "too_long" if how == "too_long" else code
    assert f'aligner_kept_total{{reason="{reason}"}} 1.0' in page


def test_what_is_half_corrected_is_no_correction(sentences: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    ruled(sentences, monkeypatch, "error")
    done = sentences.correct("q", THREE)
    assert (done.text, done.kept_because, done.completion.error) == (THREE, "error", "it broke")

    async def main() -> list[Any]:
        return [delta async for delta in sentences.stream("q", "Two. One.")]

    deltas = asyncio.run(main())
    assert ("".join(d.text for d in deltas), deltas[-1].kept_because) == ("Two. One.", "error")


# -- a corrector behind an address, and the log

TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b"}


async def completing(call: Call) -> None:
    if call.body["prompt"].count("break"):
        await call.reply({"error": {"message": "it broke"}}, 400)
        return
    reply = {"choices": [{"index": 0, "text": "omega", "finish_reason": "stop"}]}
    await (call.stream([reply]) if call.body.get("stream") else call.reply(reply))


async def quoting(call: Call) -> None:
    """Refuses with what it was asked, whole or in a stream."""
    error = {"error": {"message": call.body["prompt"], "type": call.body["prompt"], "code": "bad_prompt"}}
    await (call.stream([error]) if call.body.get("stream") else call.reply(error, 400))


def remote(url: str, **options: Any) -> RemoteAligner:
    with tiny_aligner(tokenizer=llama2_tokenizer(), prompt="aligner-v1") as local:
        return RemoteAligner(f"{url}/v1", local.tokenizer, local.card, context=local.context, retries=0,
                             **{"model": "m", "sends": "text", **options})  # fmt: skip


def test_the_trace_of_a_request_reaches_a_corrector_behind_an_address() -> None:
    behind = Upstream(completing)
    with serving_app(behind) as url, standing(saying, remote(url)) as stand:
        for body in (ASK, STREAM):
            for headers in (TRACE, {}):
                reply = post(stand.url, body, **headers, authorization="Bearer mine", baggage="who=me")
                assert "omega" in reply.text
                call = behind.calls[-1]
                assert {name: call.header(name) for name in TRACE} == {name: headers.get(name) for name in TRACE}
                assert call.header("baggage") is None
                assert call.header("authorization") != "Bearer mine"
    assert len(behind.calls) == 4


@pytest.mark.parametrize("body", [ASK, STREAM])
def test_a_trace_that_is_none_stays_behind(body: Any) -> None:
    behind = Upstream(completing)
    with serving_app(behind) as url, standing(saying, remote(url)) as stand:
        sent = {**TRACE, "tracestate": "a=ä".encode("latin-1")}
        reply = post(stand.url, body, **sent)
    assert (reply.status_code, "omega" in reply.text) == (200, True)
    assert [behind.calls[0].header(name) for name in TRACE] == [TRACE["traceparent"], None]


@pytest.mark.parametrize("body", [ASK, STREAM])
def test_where_the_corrector_runs_is_for_the_log_alone(
    body: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refusing(call: Call) -> None:
        await call.reply({"error": {"message": "who are you?"}}, 401)

    monkeypatch.setenv("CORRECTORS_KEY", "sk-of-the-corrector")
    with serving_app(Upstream(refusing)) as url:
        with standing(saying, remote(url, api_key_env="CORRECTORS_KEY")) as stand:
            found = post(stand.url, body)
        assert "correction_failed" in found.text
        for secret in (url, url.rpartition(":")[2], "CORRECTORS_KEY", "sk-of-the-corrector"):
            assert secret not in found.text
        assert url in caplog.text
        assert "CORRECTORS_KEY" in caplog.text
        assert "sk-of-the-corrector" not in caplog.text


@pytest.mark.parametrize("body", [ASK, STREAM])
def test_why_a_correction_failed_is_for_the_log_alone(
    body: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(call: Call) -> None:
        await call.reply({"error": {"message": "it broke", "code": "lost_device"}}, 500)

    def fails(corrector: Any, why: str) -> None:
        caplog.clear()
        with standing(saying, corrector) as stand:
            found = post(stand.url, body)
        assert "correction_failed" in found.text
        assert why in caplog.text
        assert why not in found.text

    with serving_app(Upstream(failing)) as url:
        fails(remote(url), "lost_device")
    monkeypatch.setattr(Forward, "__call__", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with tiny_aligner(tokenizer=llama2_tokenizer(), prompt="aligner-v1") as local:
        fails(local, "not enough memory")


def test_no_log_holds_a_key_or_a_text(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """At any level, and of good requests and failing ones."""
    key, question, answer = "sk-mine-1234", "whisperedquestion", "whisperedanswer"

    async def handler(call: Call) -> None:
        fault = call.body.get("fault")
        if fault == "garbage":
            await call.reply(b'{"choices": ' + answer.encode())
        elif fault == "refused":
            await call.reply({"error": {"message": f"{answer} {question}"}}, 400)
        elif call.body.get("stream"):
            await call.stream(chat_stream(f"{answer} beta"))
        else:
            await call.reply(chat_reply(f"{answer} beta"))

    class Bug(RuleCorrector):
        async def acorrect(self, question: Any, answer: str, sampling: Any = None) -> Any:
            raise RuntimeError(f"{question} {answer}")

        async def stream(self, question: Any, answer: str, sampling: Any = None) -> Any:
            raise RuntimeError(f"{question} {answer}")
            yield

    def bodies() -> Iterator[Any]:
        for stream in (False, True):
            for more in ({}, {"fault": "garbage"}, {"fault": "refused"}, {"aligner": question}):
                messages = [{"role": "user", "content": question}]
                yield {"model": "m", "messages": messages, "stream": stream, **more}
        yield b'{"messages": ' + question.encode()

    def ask(corrector: Any, **settings: Any) -> list[int]:
        with standing(handler, corrector, **settings) as stand:
            for name in ("uvicorn", "uvicorn.error"):
                monkeypatch.setattr(logging.getLogger(name), "propagate", True)
            return [post(stand.url, body, authorization=f"Bearer {key}").status_code for body in bodies()]

    caplog.set_level(1)
    assert ask(RuleCorrector())[0] == 200
    assert ask(Bug())[0] == 502
    with serving_app(Upstream(completing)) as url:
        assert ask(remote(url))[0] == 200
        assert ask(remote("http://127.0.0.1:9"))[0] == 502
    with serving_app(Upstream(quoting)) as url:
        assert ask(remote(url))[0] == 502
        assert caplog.text.count(f"{url}/v1: status 400 (bad_prompt)") == 1
        assert caplog.text.count(f"{url}/v1: APIError (bad_prompt)") == 1
    with monkeypatch.context() as patched:
        from aligner.serve.policy import Policy

        async def breaks(self: Any, answers: Any, corrector: Any) -> Any:
            raise ValueError(answers[0].text)

        patched.setattr(Policy, "correct_all", breaks)
        assert ask(RuleCorrector())[0] == 500
    assert "ValueError at test_serve_policy.py" in caplog.text
    assert caplog.records
    formatter = logging.Formatter("%(name)s %(message)s")
    for record in caplog.records:
        line = formatter.format(record)
        assert not [secret for secret in (key, question, answer) if secret in line], line
