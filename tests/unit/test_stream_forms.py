"""The many forms that streams of real servers have: where an answer ends, what reasoning is, and what is lost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tests.serving import Call, RuleCorrector, chat_chunk, chat_stream, standing
from tests.unit.test_gateway import ASK, chunks, post, text_of
from tests.unit.test_gateway_streaming import sentence_aligner

STREAM = {**ASK, "stream": True}
COMPLETION = {"model": "m", "prompt": "Say beta: ", "stream": True}
RESPONSE = {"model": "m", "input": "q", "stream": True}
LOGPROBS = {"content": [{"token": "t", "logprob": -1.0}]}


def streaming(*made: Any, done: bool = True) -> Any:
    async def handler(call: Call) -> None:
        await call.stream(list(made), done=done)

    return handler


def completion_chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, **more}
    return {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


def raw_event(value: Any) -> bytes:
    return f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode()


def response_events(*deltas: str, output: Any = None, **part_more: Any) -> list[dict[str, Any]]:
    """A response's events, as OpenAI sends them; `output` is what the last one says in place of the item."""
    part = {"type": "output_text", "text": "".join(deltas), "annotations": [], **part_more}
    item = {"id": "i", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    at = {"output_index": 0, "content_index": 0, "item_id": "i"}
    bare = {"id": "r", "object": "response", "created_at": 1.0, "model": "m", "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": []}  # fmt: skip
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "input_tokens_details": {"cached_tokens": 0},
             "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**bare, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": d, "logprobs": []} for d in deltas),
        {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": part_more.get("logprobs", [])},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**bare, "status": "completed", "usage": usage,
                                                    "output": [item] if output is None else output}},
    ]  # fmt: skip
    return [{**event, "sequence_number": i} for i, event in enumerate(events)]


def response(url: str, **more: Any) -> list[Any]:
    return chunks_of(post(url, {**RESPONSE, **more}, "/v1/responses").text)


def chunks_of(text: str) -> list[Any]:
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def shown_by(events: list[Any]) -> str:
    return "".join(e["delta"] for e in events if isinstance(e, dict) and e["type"] == "response.output_text.delta")


def of_type(events: list[Any], kind: str) -> Any:
    found = [e for e in events if isinstance(e, dict) and e["type"] == kind]
    assert len(found) == 1
    return found[0]


# Where an answer ends


@pytest.mark.parametrize("path", ["chat", "completions"])
def test_an_empty_finish_reason_ends_nothing(path: str) -> None:
    if path == "chat":
        made = [chat_chunk({"content": t}, "") for t in ("a ", "beta ", "c")] + [chat_chunk({"content": ""}, "stop")]
    else:
        made = [completion_chunk(t, "") for t in ("a ", "beta ", "c")] + [completion_chunk("", "stop")]
    with standing(streaming(*made)) as stand:
        body, url = (STREAM, "/v1/chat/completions") if path == "chat" else (COMPLETION, "/v1/completions")
        found = chunks(post(stand.url, body, url))
        assert [asked for _, asked in stand.corrector.asked] == ["a beta c"]
    assert text_of(found) == "a omega c"


def test_text_after_the_end_is_an_error_and_never_shown() -> None:
    with standing(streaming(*chat_stream("a beta"), chat_chunk({"content": " more beta"}))) as stand:
        found = chunks(post(stand.url, STREAM))
    assert found[-1]["error"]["code"] == "upstream_invalid"
    assert "beta" not in text_of(found)


def test_what_comes_after_the_end_and_is_no_text_passes() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    after = [chat_chunk({"content": ""}, x_filter={"ok": True}), chat_chunk({}, usage=usage)]
    with standing(streaming(*chat_stream("a beta"), *after)) as stand:
        found = chunks(post(stand.url, STREAM))
    assert text_of(found) == "a omega"
    assert [c["x_filter"] for c in found[:-1] if "x_filter" in c] == [{"ok": True}]
    assert found[-2]["usage"]["aligner"]["total_tokens"] == 4


@pytest.mark.parametrize("path", ["chat", "completions"])
def test_done_ends_an_answer_without_a_finish_reason(path: str) -> None:
    if path == "chat":
        made: list[Any] = chat_stream("a beta")[:-1]
    else:
        made = [completion_chunk("a "), completion_chunk("beta")]
    with standing(streaming(*made)) as stand:
        body, url = (STREAM, "/v1/chat/completions") if path == "chat" else (COMPLETION, "/v1/completions")
        found = chunks(post(stand.url, body, url))
    assert (text_of(found), found[-1]) == ("a omega", "[DONE]")
    assert all(c["choices"][0]["finish_reason"] is None for c in found[:-1]), "no reason is made up"


@pytest.mark.parametrize("path", ["chat", "completions"])
def test_done_behind_an_error_ends_no_answer(path: str) -> None:
    """So does vLLM end a stream that it cannot go on with."""
    made: list[Any] = chat_stream("a beta")[:-1] if path == "chat" else [completion_chunk("a "), completion_chunk("b")]
    with standing(streaming(*made, {"error": {"message": "boom", "code": 500}})) as stand:
        body, url = (STREAM, "/v1/chat/completions") if path == "chat" else (COMPLETION, "/v1/completions")
        found = chunks(post(stand.url, body, url))
        assert not stand.corrector.asked
    assert text_of(found[:-2]) == ""
    assert found[-2:] == [{"error": {"message": "boom", "code": 500}}, "[DONE]"]


def test_no_done_and_no_finish_reason_is_half_an_answer() -> None:
    with standing(streaming(*chat_stream("a beta")[:-1], done=False)) as stand:
        found = chunks(post(stand.url, STREAM))
    assert found[-1]["error"]["code"] == "upstream_broke_off"


@pytest.mark.parametrize("last", ["[DONE]", "the last chunk"])
def test_a_connection_that_breaks_behind_a_whole_answer_breaks_nothing(last: str) -> None:
    async def handler(call: Call) -> None:
        done = [b"data: [DONE]\n\n"] if last == "[DONE]" else []
        pairs = [(b"content-type", b"text/event-stream")]
        await call.send({"type": "http.response.start", "status": 200, "headers": pairs})
        for chunk in [*chat_stream("a beta"), *done]:
            data = chunk if isinstance(chunk, bytes) else b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await call.send({"type": "http.response.body", "body": data, "more_body": True})
        await asyncio.sleep(0.1)
        raise ConnectionResetError  # the server closes without the chunk that ends the reply

    with standing(handler) as stand:
        found = chunks(post(stand.url, STREAM))
        several = chunks(post(stand.url, {**STREAM, "n": 2}))
    assert (text_of(found), found[-1]) == ("a omega", "[DONE]")
    if last == "[DONE]":
        assert several[-1] == "[DONE]"
    else:  # the second choice never came
        assert several[-1]["error"]["code"] == "upstream_broke_off"


@pytest.mark.parametrize("path", ["chat", "responses"])
def test_nobody_waits_for_a_connection_that_stays_open_behind_the_end(path: str) -> None:
    async def handler(call: Call) -> None:
        made = [f"data: {json.dumps(c)}\n\n".encode() for c in chat_stream("a beta")]
        made = made if path == "chat" else [raw_event(e) for e in response_events("a beta")]
        pairs = [(b"content-type", b"text/event-stream")]
        await call.send({"type": "http.response.start", "status": 200, "headers": pairs})
        for data in [*made, b"data: [DONE]\n\n"]:
            await call.send({"type": "http.response.body", "body": data, "more_body": True})
        await call.gone()

    with standing(handler, upstream_timeout=30) as stand:
        body, url = (STREAM, "/v1/chat/completions") if path == "chat" else (RESPONSE, "/v1/responses")
        reply = httpx2.post(stand.url + url, json=body, timeout=10)
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "omega" in reply.text
    assert "error" not in reply.text


def test_done_of_a_response_comes_behind_its_answer() -> None:
    with standing(streaming(*map(raw_event, response_events("a beta")))) as stand:
        found = response(stand.url)
    assert found[-1] == "[DONE]"
    assert found[-2]["type"] == "response.completed"
    assert found[-2]["response"]["output"][0]["content"][0]["text"] == "a omega"
    assert found.count("[DONE]") == 1


def test_errors_of_a_response_have_the_type_error() -> None:
    made = [raw_event(e) for e in response_events("a beta")]
    with standing(streaming(*made), RuleCorrector(fails=True)) as stand:
        found = response(stand.url)
    assert set(found[-1]) == {"type", "code", "message", "param", "sequence_number"}
    assert (found[-1]["type"], found[-1]["code"]) == ("error", "correction_failed")
    assert [e["sequence_number"] for e in found] == list(range(len(found)))


# Reasoning, echoes and parts


def test_a_response_with_reasoning_in_its_text_shows_all_of_it_in_deltas() -> None:
    deltas = ["<think>is it be", "ta</thi", "nk>\n\n", "yes be", "ta"]
    with standing(streaming(*map(raw_event, response_events(*deltas)))) as stand:
        found = response(stand.url)
        assert [asked for _, asked in stand.corrector.asked] == ["yes beta"]
    whole = "<think>is it beta</think>\n\nyes omega"
    assert of_type(found, "response.output_text.done")["text"] == whole
    assert shown_by(found) == whole
    assert of_type(found, "response.output_item.done")["item"]["content"][0]["text"] == whole


@pytest.mark.parametrize("path", ["chat", "responses"])
def test_reasoning_without_its_beginning_is_shown_and_not_corrected(path: str) -> None:
    deltas = ["is it be", "ta\n</thi", "nk>\n\n", "yes be", "ta"]
    if path == "chat":
        made: Any = [*(chat_chunk({"content": d}) for d in deltas), chat_chunk({}, "stop")]
    else:
        made = map(raw_event, response_events(*deltas))
    with standing(streaming(*made)) as stand:
        found = chunks(post(stand.url, STREAM)) if path == "chat" else response(stand.url)
        assert [asked for _, asked in stand.corrector.asked] == ["yes beta"]
    shown = text_of(found) if path == "chat" else shown_by(found)
    assert shown == "is it beta\n</think>\n\nyes omega"


@pytest.mark.parametrize("path", ["chat", "responses"])
def test_sentences_never_show_reasoning_that_is_known(path: str) -> None:
    """What the corrector is given, sentence by sentence, is the answer alone."""
    deltas = ["<think>Is it. Or ", "not.</think>\n\n", "One. Two. Th", "ree."]
    if path == "chat":
        made: Any = [*(chat_chunk({"content": d}) for d in deltas), chat_chunk({}, "stop")]
    else:
        made = map(raw_event, response_events(*deltas))
    with sentence_aligner() as aligner, standing(streaming(*made), aligner, sentences=True) as stand:
        whole = aligner.correct("q" if path == "responses" else "Say it.", "One. Two. Three.")
        found = chunks(post(stand.url, STREAM)) if path == "chat" else response(stand.url)
    shown = text_of(found) if path == "chat" else shown_by(found)
    assert shown == "<think>Is it. Or not.</think>\n\n" + (whole.completion.text or whole.text)
    if path == "responses":
        assert of_type(found, "response.output_text.done")["text"] == shown


@pytest.mark.parametrize("path", ["chat", "responses"])
def test_sentences_that_turn_out_to_be_reasoning_are_named_and_not_sent_twice(path: str) -> None:
    asks = {"aligner": {"return": ["reason"]}}
    deltas = ["Is it. Or ", "not.\n</think>\n\n", "One. Two. Th", "ree."]
    if path == "chat":
        made: Any = [*(chat_chunk({"content": d}) for d in deltas), chat_chunk({}, "stop")]
    else:
        made = map(raw_event, response_events(*deltas))
    with sentence_aligner() as aligner, standing(streaming(*made), aligner, sentences=True) as stand:
        whole = aligner.correct("q" if path == "responses" else "Say it.", "".join(deltas))
        found = chunks(post(stand.url, {**STREAM, **asks})) if path == "chat" else response(stand.url, **asks)
    shown = text_of(found) if path == "chat" else shown_by(found)
    assert shown == (whole.completion.text or whole.text)
    if path == "chat":
        last = found[-2]["choices"][0]
    else:
        last = of_type(found, "response.content_part.done")["part"]
        assert last["text"] == shown
    assert last["aligner"]["reason"] == "reasoning"


def test_reasoning_without_its_beginning_and_a_corrector_of_sentences() -> None:
    """Such a corrector is read ahead, too; what it then corrects is the answer alone."""
    made = [*(chat_chunk({"content": d}) for d in ("Is it.\n</think>\n\n", "One. Two.")), chat_chunk({}, "stop")]
    with sentence_aligner() as aligner, standing(streaming(*made), aligner) as stand:
        whole = aligner.correct("Say it.", "One. Two.")
        found = chunks(post(stand.url, STREAM))
    assert text_of(found) == "Is it.\n</think>\n\n" + whole.text


@pytest.mark.parametrize("sentences", [False, True])
def test_an_echoed_prompt_is_shown_once_and_never_corrected(sentences: bool) -> None:
    pieces = ["Say be", "ta: ", "One. Two. ", "Three."]
    made = [*map(completion_chunk, pieces), completion_chunk("", "stop")]
    with sentence_aligner() as aligner, standing(streaming(*made), aligner, sentences=sentences) as stand:
        whole = aligner.correct("Say beta: ", "One. Two. Three.")
        found = chunks(post(stand.url, {**COMPLETION, "echo": True}, "/v1/completions"))
    assert text_of(found) == "Say beta: " + (whole.completion.text or whole.text)


def test_parts_that_are_no_text_pass_and_text_parts_are_corrected() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "beta?"}]}
    note = {"type": "reference", "reference_ids": [1]}
    made = [
        chat_chunk({"role": "assistant", "content": [thinking]}),
        chat_chunk({"content": [{"type": "text", "text": "a "}, note]}),
        chat_chunk({"content": "beta"}),
        chat_chunk({"content": [{"type": "text", "text": " c"}, thinking]}, "stop"),
    ]
    with standing(streaming(*made)) as stand:
        found = chunks(post(stand.url, STREAM))
        assert [asked for _, asked in stand.corrector.asked] == ["a beta c"]
    contents = [c["choices"][0]["delta"].get("content") for c in found[:-1]]
    assert [part for c in contents if isinstance(c, list) for part in c] == [thinking, note, thinking]
    assert "".join(c for c in contents if isinstance(c, str)) == "a omega c"


def test_text_beside_a_tool_call_is_all_there_where_sentences_are_shown() -> None:
    tool = {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}
    made = [chat_chunk({"content": "One. Two. "}), chat_chunk(tool), chat_chunk({"content": "Three."}),
            chat_chunk({}, "tool_calls")]  # fmt: skip
    with sentence_aligner() as aligner, standing(streaming(*made), aligner, sentences=True) as stand:
        whole = aligner.correct("Say it.", "One. Two. Three.")
        found = chunks(post(stand.url, STREAM))
    assert text_of(found) == (whole.completion.text or whole.text)


# What is said, counted and kept


@pytest.mark.parametrize("corrector", [RuleCorrector(fails=True), RuleCorrector(keeps="too_long")])
@pytest.mark.parametrize("path", ["chat", "responses"])
def test_a_stream_says_that_the_original_was_kept_because_of_a_failure(corrector: Any, path: str) -> None:
    made: Any = chat_stream("fine") if path == "chat" else map(raw_event, response_events("fine"))
    with standing(streaming(*made), corrector, on_failure="pass-through") as stand:
        found = chunks(post(stand.url, STREAM)) if path == "chat" else response(stand.url)
    reason = "correction_failed" if corrector.fails else "too_long"
    if path == "chat":
        assert (text_of(found), found[-2]["choices"][0]["aligner"]) == ("fine", {"reason": reason})
    else:
        assert shown_by(found) == "fine"
        assert found[-2]["response"]["output"][0]["content"][0]["aligner"] == {"reason": reason}


def test_an_answer_left_alone_has_no_note_unasked() -> None:
    tool = {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}
    made = [chat_chunk({"content": "say beta", **tool}), chat_chunk({}, "tool_calls")]
    with standing(streaming(*made)) as stand:
        found = chunks(post(stand.url, STREAM))
    assert "aligner" not in found[-2]["choices"][0]


@pytest.mark.parametrize("output", [[], None, [None, "x"]])
def test_a_response_with_an_empty_end_keeps_its_text(output: Any) -> None:
    events = response_events("a be", "ta", output=output)
    if output is None:
        events[-1]["response"]["output"] = None
    with standing(streaming(*map(raw_event, events))) as stand:
        found = response(stand.url)
    assert shown_by(found) == "a omega"
    assert of_type(found, "response.output_text.done")["text"] == "a omega"
    assert of_type(found, "response.content_part.done")["part"]["text"] == "a omega"
    assert of_type(found, "response.output_item.done")["item"]["content"][0]["text"] == "a omega"
    assert of_type(found, "response.completed")["response"]["output"] == output


def test_an_item_that_is_none_moves_no_other(tmp_path) -> None:
    item = response_events("a beta")[-2]["item"]
    events = [e if "output_index" not in e else {**e, "output_index": 1} for e in response_events("a ", "beta")]
    events[-1]["response"]["output"] = [None, item]
    made = [raw_event(e) for e in events]
    with standing(streaming(*made)) as stand:
        found = response(stand.url)
    assert shown_by(found) == "a omega"
    assert of_type(found, "response.completed")["response"]["output"][1]["content"][0]["text"] == "a omega"
    with standing(streaming(*made), mode="shadow", out=str(tmp_path / "shadow")) as stand:
        assert response(stand.url)[:-1] == events
    rows = [json.loads(line) for line in (tmp_path / "shadow" / "samples.jsonl").read_text().splitlines()]
    assert [row["correction"] for row in rows] == ["a omega"]


@pytest.mark.parametrize("sentences", [False, True])
def test_events_without_indices_are_told_apart_by_their_items(sentences: bool) -> None:
    """As llama.cpp sends them: events that name their item and no place, with reasoning before the answer."""
    made, thought = response_events("One. Two be", "ta."), {"id": "t", "type": "reasoning", "content": []}
    made[1:1] = [{"type": "response.output_item.added", "item": thought},
                 {"type": "response.reasoning_text.delta", "item_id": "t", "delta": "hm"}]  # fmt: skip
    made[-4:-4] = [{"type": "response.output_item.done", "item": thought}]
    made[-1]["response"]["output"] = [thought, made[-2]["item"]]
    gone = ("output_index", "content_index", "sequence_number")
    made = [{k: v for k, v in event.items() if k not in gone} for event in made]
    with sentence_aligner() as aligner:
        corrected = aligner.correct("q", "One. Two beta.")
        text = (corrected.completion.text or corrected.text) if sentences else "One. Two omega."
        corrector = aligner if sentences else RuleCorrector()
        with standing(streaming(*map(raw_event, made)), corrector, sentences=sentences) as stand:
            found = response(stand.url)[:-1]
    deltas = [e for e in found if e["type"] == "response.output_text.delta"]
    assert "".join(e["delta"] for e in deltas) == text
    assert of_type(found, "response.output_text.done")["text"] == text
    assert of_type(found, "response.content_part.done")["part"]["text"] == text
    items = [e["item"] for e in found if e["type"] == "response.output_item.done"]
    assert (items[0], items[1]["content"][0]["text"]) == (thought, text)
    assert found[-1]["response"]["output"] == items
    assert {e["item_id"] for e in [*deltas, *(e for e in found if e["type"].endswith("t.done"))]} == {"i"}
    assert not [e for e in found if not set(e).isdisjoint(gone)], "nothing is made up"


@pytest.mark.parametrize("text", ["fine", "a beta"])
def test_a_streams_logprobs_stay_where_the_text_does(text: str) -> None:
    made = [chat_chunk({"content": t if i == 0 else f" {t}"}) for i, t in enumerate(text.split(" "))]
    for chunk in made:
        chunk["choices"][0]["logprobs"] = LOGPROBS
    with standing(streaming(*made, chat_chunk({}, "stop"))) as stand:
        found = chunks(post(stand.url, STREAM))
    last = found[-2]["choices"][0]
    kept = [c["choices"][0]["logprobs"] for c in found[:-1] if c["choices"][0]["logprobs"]]
    if text == "fine":
        assert kept == [last["logprobs"]] == [{"content": LOGPROBS["content"] * len(made)}]
        assert "aligner" not in last
    else:
        assert not kept
        assert last["aligner"] == {"removed": ["logprobs"]}


def test_logprobs_of_text_beside_a_tool_call_stay() -> None:
    tool = {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}
    said, called = chat_chunk({"content": "say beta"}), chat_chunk(tool)
    said["choices"][0]["logprobs"] = called["choices"][0]["logprobs"] = LOGPROBS
    with standing(streaming(said, called, chat_chunk({}, "tool_calls"))) as stand:
        found = chunks(post(stand.url, STREAM))
    assert text_of(found) == "say beta"
    tokens = [t for c in found[:-1] for t in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert tokens == LOGPROBS["content"] * 2


def test_logprobs_of_completions_are_put_together_again() -> None:
    def described(text: str, offset: int) -> Any:
        return {"tokens": [text], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [offset]}

    made = [completion_chunk(t, logprobs=described(t, i)) for i, t in enumerate(("so", " fine"))]
    with standing(streaming(*made, completion_chunk("", "stop"))) as stand:
        found = chunks(post(stand.url, COMPLETION, "/v1/completions"))
    wanted = {"tokens": ["so", " fine"], "token_logprobs": [-1.0] * 2, "top_logprobs": None, "text_offset": [0, 1]}
    assert found[-2]["choices"][0]["logprobs"] == wanted


def test_logprobs_far_larger_than_the_text_go_with_a_note(monkeypatch) -> None:
    monkeypatch.setattr("aligner.serve.chunks._DESCRIBED", 100)
    said = chat_chunk({"content": "fine"})
    said["choices"][0]["logprobs"] = LOGPROBS
    with standing(streaming(said, chat_chunk({}, "stop"))) as stand:
        found = chunks(post(stand.url, STREAM))
    assert found[-2]["choices"][0]["aligner"] == {"removed": ["logprobs"]}


@pytest.mark.parametrize("text", ["so fine", "a beta"])
def test_annotations_and_logprobs_of_a_response_stay_where_the_text_does(text: str) -> None:
    note = {"type": "url_citation", "start_index": 0, "end_index": 1, "url": "u", "title": "t"}
    logprobs = LOGPROBS["content"]
    events = response_events(*text.split(" ", 1), annotations=[note], logprobs=logprobs)
    added = {"type": "response.output_text.annotation.added", "output_index": 0, "content_index": 0, "item_id": "i",
             "annotation_index": 0, "annotation": note, "sequence_number": 5}  # fmt: skip
    for event in events:
        if event["type"].endswith("text.delta"):
            event["logprobs"] = logprobs
    changed = "beta" in text
    with standing(streaming(*map(raw_event, [*events[:5], added, *events[5:]]))) as stand:
        found = response(stand.url)
    part = of_type(found, "response.content_part.done")["part"]
    assert part == of_type(found, "response.completed")["response"]["output"][0]["content"][0]
    assert (part["annotations"], bool(part["logprobs"])) == ([] if changed else [note], not changed)
    assert bool(of_type(found, "response.output_text.done")["logprobs"]) is not changed
    assert [e["annotation"] for e in found[:-1] if "annotation" in e] == ([] if changed else [note])
    assert part.get("aligner") == ({"removed": ["logprobs", "annotations"]} if changed else None)


@pytest.mark.parametrize("asked", [True, False])
def test_the_correctors_tokens_are_told_where_the_upstream_tells_none(asked: bool) -> None:
    with standing(streaming(*chat_stream("a beta"))) as stand:
        more = {"stream_options": {"include_usage": True}} if asked else {}
        found = chunks(post(stand.url, {**STREAM, **more}))
    assert text_of(found) == "a omega"
    told = [c for c in found[:-1] if "aligner" in c]
    assert [c["aligner"]["usage"]["total_tokens"] for c in told] == [4] * asked
    assert [c["choices"] for c in told] == [[]] * asked


def test_a_usage_on_a_finish_chunk_counts_every_choice() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    made = [chat_chunk({"content": "a beta"}, index=i) for i in (0, 1)]
    made += [chat_chunk({}, "stop", 0, usage=usage), chat_chunk({}, "stop", 1)]

    class Slower(RuleCorrector):
        async def stream(self, question: Any, answer: str, sampling: Any = None) -> Any:
            await asyncio.sleep(0.3 * bool(self.asked))
            async for delta in super().stream(question, answer):
                yield delta

    with standing(streaming(*made), Slower()) as stand:
        found = chunks(post(stand.url, {**STREAM, "n": 2}))
    assert [text_of(found, i) for i in (0, 1)] == ["a omega"] * 2
    assert [c["usage"]["aligner"]["total_tokens"] for c in found[:-1] if "usage" in c] == [8]
    ends = [c["choices"][0]["index"] for c in found[:-1] if c["choices"][0]["finish_reason"]]
    assert sorted(ends) == [0, 1]
