"""Answers that must keep to a response format: corrected where the correction does, kept with the reason otherwise."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from aligner.correct.guards import ResponseFormat
from aligner.errors import ConfigError
from aligner.serve.formats import wanted_format
from tests.models import tiny_aligner, writes
from tests.serving import Call, chat_reply, chat_stream, standing

SCHEMA = {
    "type": "object",
    "properties": {"n": {"$ref": "#/$defs/count"}, "pattern": {"type": "string"}},
    "required": ["n"],
    "$defs": {"count": {"type": "integer"}},
}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
OBJECT = {"type": "json_object"}
OBJECT_BY_SCHEMA = {**OBJECT, "schema": SCHEMA}  # llama.cpp's
ASK = {"model": "m", "messages": [{"role": "user", "content": "How many?"}]}
ANSWER = '{"n": 3}'


async def answers(call: Call) -> None:
    if call.path == "/v1/responses":
        part = {"type": "output_text", "text": ANSWER, "annotations": []}
        await call.reply({"output": [{"type": "message", "role": "assistant", "content": [part]}]})
    elif call.body.get("stream"):
        await call.stream(chat_stream(ANSWER))
    else:
        await call.reply(chat_reply(ANSWER))


@pytest.mark.parametrize(
    ("form", "written", "shown", "reason"),
    [
        (OBJECT, '{"n": 4}', '{"n": 4}', None),
        (OBJECT, "There are four.", ANSWER, "broken_format"),
        ({**OBJECT, "schema": {}}, '{"m": 4}', '{"m": 4}', None),
        ({**OBJECT, "schema": {}}, "4", ANSWER, "broken_format"),
        (OBJECT_BY_SCHEMA, '{"n": 4}', '{"n": 4}', None),
        (OBJECT_BY_SCHEMA, '{"n": "four"}', ANSWER, "broken_format"),
        (BY_SCHEMA, '{"n": 4}', '{"n": 4}', None),
        (BY_SCHEMA, '{"n": "four"}', ANSWER, "broken_format"),
        (BY_SCHEMA, '{"m": 4}', ANSWER, "broken_format"),
    ],
)
def test_a_correction_keeps_to_the_format_or_is_thrown_away(
    form: Any, written: str, shown: str, reason: str | None, monkeypatch: Any
) -> None:
    with tiny_aligner(context=1024) as aligner:
        writes(aligner, written, monkeypatch)
        with standing(answers, aligner) as stand:
            ask = {**ASK, "response_format": form}
            whole = httpx2.post(stand.url + "/v1/chat/completions", json=ask, headers={"x-aligner": "return"},
                                timeout=30)  # fmt: skip
            streamed = httpx2.post(stand.url + "/v1/chat/completions", json={**ask, "stream": True}, timeout=30,
                                   headers={"x-aligner": "return=reason"})  # fmt: skip
            inner = {"type": "json_schema", "name": "n", "schema": SCHEMA} if form is BY_SCHEMA else form
            response = httpx2.post(stand.url + "/v1/responses", timeout=30,
                                   json={"model": "m", "input": "How many?", "text": {"format": inner}})  # fmt: skip
            assert stand.upstream.calls[0].body == ask
    choice = whole.json()["choices"][0]
    assert (choice["message"]["content"], choice["aligner"]["reason"]) == (shown, reason)
    found = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in found) == shown
    assert found[-1]["choices"][0]["aligner"] == {"reason": reason, "buffered": True}
    assert response.json()["output"][0]["content"][0]["text"] == shown
    header = "true" if reason is None else f"false; reason={reason}"
    assert whole.headers["x-aligner-corrected"] == response.headers["x-aligner-corrected"] == header


def schema(value: Any) -> Any:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


def doubling(levels: int) -> Any:
    """A short schema that takes 2 ** levels checks."""
    parts: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**parts, f"d{levels}": {"type": "object"}}}


@pytest.mark.parametrize(
    "request_",
    [
        {"response_format": {"type": "grammar"}},
        {"response_format": "json"},
        {"response_format": {"type": "json_schema"}},
        schema({"type": 3}),
        {"response_format": {**OBJECT, "schema": {"type": 3}}},
        {"response_format": {**OBJECT, "schema": [SCHEMA]}},
        {"response_format": {**OBJECT, "schema": {"type": "object", "additionalProperties": {"pattern": "^(a+)+$"}}}},
        schema({"type": "string", "pattern": "^(a+)+$"}),
        schema({"properties": {"a": {"patternProperties": {"(a+)+$": {}}}}}),
        schema({"properties": {"next": {"$ref": "#"}}}),
        schema({"$ref": "https://example.com/schema"}),
        schema({"$ref": "#/$defs/none"}),
        schema(doubling(40)),
        schema({"anyOf": [{"const": i} for i in range(3000)]}),
        *(schema({"$schema": given, "type": "object"}) for given in (5, [1], {}, "http://[x")),
        schema({"properties": {"a": {"$schema": 5}}}),
    ],
)
def test_what_cannot_be_checked_is_left_alone(request_: Any) -> None:
    with pytest.raises(ConfigError):
        wanted_format(request_)
    with tiny_aligner(context=1024) as aligner, standing(answers, aligner) as stand:
        reply = httpx2.post(stand.url + "/v1/chat/completions", json={**ASK, **request_}, timeout=30)
        assert reply.headers["x-aligner-corrected"] == "false; reason=structured_output"
        assert reply.json() == chat_reply(ANSWER)


MIXED = [0, *(f"s{i}" for i in range(30_000))]
DRAFT = "http://json-schema.org/draft-0{}/schema#"


@pytest.mark.parametrize(
    "value",
    [
        {"type": MIXED},
        {"type": MIXED[:500]},
        {"$schema": DRAFT.format(4), "enum": MIXED},
        {"required": MIXED[1:]},
        {"dependentRequired": {"a": MIXED}},
        {"$defs": {"unused": {"type": MIXED}}},
        {"$defs": {f"a{i}": True for i in range(30_000)}},
        {"$schema": DRAFT.format(7), "dependencies": {"enum": {"pattern": "^(a+)+$"}}},
        {"dependencies": {"default": {"properties": {"a": {"patternProperties": {"(a+)+$": {}}}}}}},
        # A name within changes what a reference leads to: here to the other "a".
        {"properties": {"x": {"$id": "http://x/", "$ref": "#/$defs/a", "$defs": {"a": {"pattern": "(a+)+$"}}}},
         "$defs": {"a": {}}},
        {"$ref": "#/$defs/x/$defs/b", "$defs": {"a": {}, "x": {"$id": "http://x/", "$defs": {
            "a": {"pattern": "(a+)+$"}, "b": {"$ref": "#/$defs/a"}}}}},
        {"$schema": DRAFT.format(4), "properties": {"x": {"id": "http://x/", "type": "object"}}},
        {"$ref": "#/$defs/a%20b", "$defs": {"a%20b": {}, "a b": {"pattern": "(a+)+$"}}},
        {"properties": {"x": {"$schema": DRAFT.format(3), "divisibleBy": "x"}}},
    ],
)  # fmt: skip
def test_what_could_take_long_is_not_even_read_as_a_schema(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(form: Any) -> Any:
        raise AssertionError("checked")

    monkeypatch.setattr(ResponseFormat, "parse", parsed)
    with pytest.raises(ConfigError, match="too large"):
        wanted_format(schema(value))
    text = {"format": {"type": "json_schema", "name": "x", "schema": value}}
    with pytest.raises(ConfigError, match="too large"):
        wanted_format({"text": text})
    with pytest.raises(ConfigError, match="too large"):
        wanted_format({"response_format": {**OBJECT, "schema": value}})


@pytest.mark.parametrize(
    "value",
    [
        {"$id": "http://x/", "$schema": DRAFT.format(7), "$ref": "#/definitions/a", "definitions": {"a": {}}},
        {"properties": {"id": {"type": "string"}, "$id": {}, "enum": {}, "default": {}}, "required": ["id"]},
        {"enum": [f"s{i}" for i in range(1000)]},
        {"type": ["string", "null"], "enum": ["a", 1, None]},
        {"default": {"id": "a"}, "examples": [{"id": "b"}]},
        {"dependencies": {"a": {"required": ["b"]}, "enum": ["b"]}},
        {"anyOf": [{"const": i} for i in range(900)]},
    ],
)
def test_what_is_short_is_a_format(value: Any) -> None:
    assert wanted_format(schema(value)) is not None


def test_text_is_no_format_and_ordinary_schemas_are_one() -> None:
    assert wanted_format({"response_format": {"type": "text"}}) is None
    assert wanted_format({"text": {"format": {"type": "text"}}, "response_format": None}) is None
    assert wanted_format({"text": "json"}) is None
    assert wanted_format(schema(doubling(5))) is not None
    assert wanted_format(schema({"properties": {"a": {"enum": [{"pattern": "x"}]}}})) is not None
