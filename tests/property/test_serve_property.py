"""What holds of every stream, however the network cuts it and whatever it says."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aligner.errors import RequestError
from aligner.serve import sse, wire
from aligner.serve.chunks import ChunkStream
from aligner.serve.events import EventStream
from aligner.types import Usage
from tests.serving import chat_chunk, chat_reply

ASK = {"messages": [{"role": "user", "content": "q"}]}
TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "</", "think>", "\n\n", " ", "yes", "no."]))


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@given(st.lists(st.text()), st.lists(st.integers(0, 10_000)), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_do_not_depend_on_the_cuts(texts: list[str], cuts: list[int], line: bytes) -> None:
    data = b"".join(b"data: " + json.dumps(text).encode() + line + line for text in texts)
    parser = sse.Parser(1 << 20)
    found = [event for piece in _pieces(data, cuts) for event in parser.feed(piece)] + parser.rest()
    assert [json.loads(event.data) for event in found] == texts
    assert b"".join(event.raw for event in found) == data


@given(TEXTS, st.integers(0, 3))
def test_a_stream_is_split_into_reasoning_and_answer_like_a_whole_text(words: list[str], together: int) -> None:
    """The answer found in a stream, and the text around it, are those of the same answer in one piece."""
    text = "".join(words)
    step = together + 1
    pieces = ["".join(words[i : i + step]) for i in range(0, len(words), step)]
    stream = ChunkStream("chat", ASK)
    chunks: list[Any] = [*(chat_chunk({"content": p}) for p in pieces), chat_chunk({}, "stop")]
    now, ready = [], []
    for chunk in chunks:
        made = stream.feed(sse.Event(raw=b"", name="", data=json.dumps(chunk).encode()))
        now += made.now
        ready += made.ready
    whole = wire.answers("chat", ASK, chat_reply(text))[0]
    assert [(a.text, a.untouched) for a in ready] == [(whole.text, whole.untouched)]
    sent = [json.loads(line[6:]) for line in b"".join(now).split(b"\n\n") if line]
    shown = "".join(c["choices"][0]["delta"].get("content") or "" for c in sent)
    assert shown == whole.head
    assert json.loads(stream.finish(ready[0], "", Usage(), None)[6:])["choices"][0]["finish_reason"] == "stop"


NAMES = st.sampled_from(
    ["role", "content", "type", "text", "messages", "input", "output", "choices", "message", "index"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(SCALARS, lambda values: st.lists(values) | st.dictionaries(NAMES, values)))
def test_no_body_breaks_the_reading(value: Any) -> None:
    for kind in ("chat", "completions", "responses"):
        body = value if isinstance(value, dict) else {"messages": value, "prompt": value, "input": value}
        response = value if isinstance(value, dict) else {"choices": value, "output": value}
        for answer in wire.answers(kind, body, response):  # type: ignore[arg-type]
            assert answer.head + answer.text == answer.holder[answer.name]


EVENTS = ["response.output_text.delta", "response.output_text.done", "response.content_part.done",
          "response.output_item.done", "response.output_text.annotation.added", "response.completed"]  # fmt: skip
FIELDS = st.sampled_from(["type", "choices", "delta", "content", "text", "index", "finish_reason", "output_index",
                          "content_index", "item", "part", "response", "output", "usage", "logprobs"])  # fmt: skip
LEAVES = SCALARS | st.sampled_from([0, 1, *EVENTS, "message", "output_text", "text", "assistant", "stop", ""])
VALUES = st.recursive(LEAVES, lambda values: st.lists(values, max_size=3) | st.dictionaries(FIELDS, values))


@given(st.lists(st.dictionaries(FIELDS, VALUES), max_size=6), st.sampled_from(["chat", "completions", "responses"]))
def test_no_event_breaks_a_stream(values: list[Any], kind: Any) -> None:
    """Whatever an upstream sends is read, written, or an error that the client is told."""
    stream: Any = EventStream(ASK) if kind == "responses" else ChunkStream(kind, ASK)
    ready = []
    with suppress(RequestError):
        for value in values:
            step = stream.feed(sse.Event(raw=b"", name="", data=json.dumps(value).encode()))
            ready += step.ready
        ready += stream.feed(sse.Event(raw=b"", name="", data=b"[DONE]")).ready
    for answer in ready:
        stream.put(answer, "other")
        assert isinstance(stream.finish(answer, "other", Usage(), None), bytes)
    assert isinstance(stream.end(), bytes)
