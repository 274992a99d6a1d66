"""Answers that the upstream cut are left alone, and so are those to turns that nobody sees; stops stop corrections."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.serve.stops import StopWatch, stop_sequences, stopped
from tests.serving import Call, RuleCorrector, chat_chunk, chat_reply, chat_stream, standing
from tests.unit.test_gateway import ASK, answering, chunks, post, text_of
from tests.unit.test_gateway_streaming import sentence_aligner, slowly
from tests.unit.test_serve_policy import THREE, ruled
from tests.unit.test_stream_forms import (
    COMPLETION,
    chunks_of,
    completion_chunk,
    of_type,
    raw_event,
    response_events,
    streaming,
)

RESPONSE = {"model": "m", "input": "q"}
RETURN = {"aligner": {"return": ["reason", "flags"]}}


# -- cut by the upstream


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_what_the_upstream_cut_is_left_alone(reason: str) -> None:
    async def handler(call: Call) -> None:
        if call.body.get("stream"):
            await call.stream([*chat_stream("a beta")[:-1], chat_chunk({}, reason)])
        else:
            reply = chat_reply("a beta", "c beta")
            reply["choices"][0]["finish_reason"] = reason
            await call.reply(reply)

    with standing(handler) as stand:
        reply = post(stand.url, {**ASK, "n": 2, "max_tokens": 2})
        assert [c["message"]["content"] for c in reply.json()["choices"]] == ["a beta", "c omega"]
        assert reply.headers["x-aligner-corrected"] == f"true; reason={reason}"
        found = chunks(post(stand.url, {**ASK, **RETURN, "stream": True}))
        assert [answer for _, answer in stand.corrector.asked] == ["c beta"]
        assert f'aligner_kept_total{{reason="{reason}"}} 2.0' in httpx2.get(stand.url + "/metrics").text
    assert text_of(found) == "a beta"
    last = found[-2]["choices"][0]
    assert (last["finish_reason"], last["aligner"]["reason"]) == (reason, reason)


def test_a_completion_that_was_cut_is_left_alone() -> None:
    with standing(streaming(completion_chunk("a beta"), completion_chunk("", "length"))) as stand:
        assert text_of(chunks(post(stand.url, COMPLETION, "/v1/completions"))) == "a beta"
        assert not stand.corrector.asked


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(("detail", "reason"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
def test_a_response_that_was_cut_is_left_alone(detail: str, reason: str, empty: bool) -> None:
    made = response_events("a be", "ta", output=[] if empty else None)
    ended = {**made[-1]["response"], "status": "incomplete", "incomplete_details": {"reason": detail}}
    made[-1] = {**made[-1], "type": "response.incomplete", "response": ended}

    async def handler(call: Call) -> None:
        if call.body.get("stream"):
            await call.stream([raw_event(event) for event in made], done=False)
        else:
            await call.reply(ended)

    with standing(handler) as stand:
        reply = post(stand.url, RESPONSE, "/v1/responses")
        found = post(stand.url, {**RESPONSE, **RETURN, "stream": True}, "/v1/responses")
        assert not stand.corrector.asked
    if not empty:
        assert reply.json() == ended
        assert reply.headers["x-aligner-corrected"] == f"false; reason={reason}"
    events = chunks_of(found.text)
    assert of_type(events, "response.output_text.done")["text"] == "a beta"
    assert of_type(events, "response.content_part.done")["part"]["aligner"]["reason"] == reason


# -- questions that nobody sees


@pytest.mark.parametrize("more", [
    {"previous_response_id": "resp_1"},
    {"conversation": {"id": "conv_1"}},
    {"prompt": {"id": "pmpt_1"}},
    {"input": [{"type": "item_reference", "id": "msg_1"}, {"role": "user", "content": "And in Germany?"}]},
])  # fmt: skip
def test_an_answer_to_turns_that_only_the_upstream_has_is_left_alone(more: Any) -> None:
    async def handler(call: Call) -> None:
        part = {"type": "output_text", "text": "a beta"}
        await call.reply({"output": [{"type": "message", "content": [part]}]})

    with standing(handler) as stand:
        reply = post(stand.url, {**RESPONSE, **more}, "/v1/responses")
        assert reply.headers["x-aligner-corrected"] == "false; reason=unseen_turns"
        assert reply.json()["output"][0]["content"][0]["text"] == "a beta"
        assert not stand.corrector.asked
        assert 'aligner_kept_total{reason="unseen_turns"} 1.0' in httpx2.get(stand.url + "/metrics").text
        fields = ("previous_response_id", "conversation", "prompt")
        reply = post(stand.url, {**RESPONSE, **dict.fromkeys(fields)}, "/v1/responses")
        assert reply.json()["output"][0]["content"][0]["text"] == "a omega"


# -- stop sequences


@given(st.text("abc ", max_size=12), st.lists(st.text("abc ", min_size=1, max_size=4), max_size=3),
       st.lists(st.integers(0, 12)))  # fmt: skip
def test_a_text_is_cut_at_the_same_place_however_it_comes(text: str, stops: list[str], cuts: list[int]) -> None:
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    watch, whole = StopWatch(stops), StopWatch(stops)
    pieces = [watch.push(text[a:b]) for a, b in itertools.pairwise(at)]
    assert not any(piece.isspace() for piece in itertools.takewhile(lambda said: not said.strip(), pieces))
    shown = "".join(pieces) + watch.rest()
    assert (shown, watch.hit) == (whole.push(text) + whole.rest(), whole.hit)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert watch.hit or shown == text


def test_what_a_request_asks_to_stop_at() -> None:
    assert stop_sequences({"stop": "x"}) == ("x",)
    assert stop_sequences({"stop": ["x", "", None, "y"]}) == ("x", "y")
    assert stop_sequences({"stop": None}) == stop_sequences({"stop": {"x": 1}}) == ()
    assert stop_sequences({"stop": "x", "include_stop_str_in_output": True}) == ()
    assert StopWatch(["beta"], "a beta").push("a beta") == "a beta", "a server that does not stop there"


class Longer(RuleCorrector):
    """Writes on behind the answer."""

    def _made(self, question: Any, answer: str) -> Any:
        return replace(super()._made(question, f"{answer} one two three"), answer=answer)


@pytest.mark.parametrize(
    ("stop", "shown", "flags"),
    [
        ("ga one", "a ome", ["stop_sequence"]),
        (["three", "wo"], "a omega one t", ["stop_sequence"]),
        ("a om", "a beta", ["stop_sequence"]),  # nothing would be left
        ("threefold", "a omega one two three", []),
        ("a", "a omega one two three", []),  # the answer has it
    ],
)
def test_a_correction_ends_before_a_stop_sequence(stop: Any, shown: str, flags: list[str]) -> None:
    async def handler(call: Call) -> None:
        await (call.stream(chat_stream("a beta")) if call.body.get("stream") else call.reply(chat_reply("a beta")))

    with standing(handler, Longer()) as stand:
        whole = post(stand.url, {**ASK, **RETURN, "stop": stop}).json()["choices"][0]
        found = chunks(post(stand.url, {**ASK, **RETURN, "stop": stop, "stream": True}))
    assert (whole["message"]["content"], whole["finish_reason"]) == (shown, "stop")
    assert (text_of(found), found[-1]) == (shown, "[DONE]")
    reason = "emptied" if shown == "a beta" else None
    assert whole["aligner"] == found[-2]["choices"][0]["aligner"] == {"reason": reason, "flags": flags}


@pytest.mark.parametrize("live", [True, False])
def test_white_space_alone_is_nothing_that_is_left(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed as whole: the answer stays, and so says the reason."""
    ask = {**ASK, **RETURN, "stop": "omega"}
    spaced = "\n beta is good"

    async def handler(call: Call) -> None:
        await (call.stream(chat_stream(spaced)) if call.body.get("stream") else call.reply(chat_reply(spaced)))

    if live:
        with sentence_aligner() as aligner:
            ruled(aligner, monkeypatch, "")
            with standing(slowly("\n One. Two."), aligner, sentences=True) as stand:
                found = chunks(post(stand.url, {**ask, "stop": "Uno", "stream": True}))
        assert text_of(found) == "\n One. Two."
    else:
        with standing(handler) as stand:
            whole = post(stand.url, ask).json()["choices"][0]
            found = chunks(post(stand.url, {**ask, "stream": True}))
        assert whole["message"]["content"] == text_of(found) == spaced
        assert whole["aligner"]["reason"] == "emptied"
    assert found[-2]["choices"][0]["aligner"]["reason"] == "emptied"


def test_stops_that_are_too_many_are_refused_before_the_upstream_is_asked(tmp_path: Path) -> None:
    for stops in ([f"s{n}" for n in range(65)], ["x" * 4097], ["x" * 2049, "y" * 2048]):
        with standing(answering("a beta")) as stand:
            for more in ({}, {"stream": True}):
                found = post(stand.url, {**ASK, **more, "stop": stops})
                assert (found.status_code, found.json()["error"]["code"]) == (400, "too_many_stops")
            assert not stand.upstream.calls
            off = post(stand.url, {**ASK, "stop": stops}, x_aligner="off")
            assert off.json()["choices"][0]["message"]["content"] == "a beta"
            assert post(stand.url, {**ASK, "stop": stops, "include_stop_str_in_output": True}).status_code == 200
        with standing(answering("a beta"), mode="shadow", out=str(tmp_path / str(len(stops)))) as stand:
            found = post(stand.url, {**ASK, "stop": stops})
            assert found.headers["x-aligner-corrected"] == "false; reason=too_many_stops"
    with standing(answering("a beta")) as stand:
        fits = post(stand.url, {**ASK, "stop": [f"{n:064}" for n in range(64)]})
    assert fits.json()["choices"][0]["message"]["content"] == "a omega"


def test_json_is_not_cut() -> None:
    made = replace(Longer()._made("q", '{"a": 1}'), text='{"a": "b"}')
    assert stopped(made, ('"}',), formatted=True) == replace(
        made, text='{"a": 1}', kept_because="broken_format", flags=("stop_sequence",)
    )
    assert stopped(made, ('"}',), formatted=False).text == '{"a": "b'
    assert stopped(made, ("c",), formatted=True) == made


def test_sentences_end_before_a_stop_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    with sentence_aligner() as aligner:
        ruled(aligner, monkeypatch, "")
        for stop, shown in (("no.", "U"), (" Two", "Uno."), ("Three.x", "Uno. Two. Three."), ("Uno", THREE)):
            with standing(slowly(THREE), aligner, sentences=True) as stand:
                found = chunks(post(stand.url, {**ASK, "stop": stop, "stream": True}))
            assert (text_of(found), found[-1]) == (shown, "[DONE]")


def test_a_stop_sequence_that_is_no_text_stops_nothing() -> None:
    with standing(answering("a beta")) as stand:
        assert post(stand.url, {**ASK, "stop": 3}).json()["choices"][0]["message"]["content"] == "a omega"
