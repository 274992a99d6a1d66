"""Requests at the gateway's edges: base URLs without /v1, images alone, bodies that stop, a server that stops."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from aligner.serve import endpoint
from tests.serving import Call, RuleCorrector, chat_reply, chat_stream, standing
from tests.unit.test_gateway import ASK, CHAT, answering, post

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_a_base_url_without_its_version_is_corrected_too() -> None:
    async def handler(call: Call) -> None:
        if call.path == "/v1/responses?x=1":
            item = {"type": "message", "content": [{"type": "output_text", "text": "a beta"}]}
            await call.reply({"output": [item]})
        else:
            assert call.path == CHAT
            await call.reply(chat_reply("a beta"))

    with standing(handler) as stand:
        found = post(stand.url, ASK, "/chat/completions")
        assert found.json()["choices"][0]["message"]["content"] == "a omega"
        found = post(stand.url, {"model": "m", "input": "q"}, "/responses?x=1")
        assert found.json()["output"][0]["content"][0]["text"] == "a omega"


@pytest.mark.parametrize("content", [[IMAGE], [IMAGE, {"type": "text", "text": " "}], "", []])
def test_an_answer_to_an_image_alone_is_left_alone(content: Any) -> None:
    with standing(answering("a beta")) as stand:
        asked = {"model": "m", "messages": [{"role": "system", "content": "Be kind."},
                                            {"role": "user", "content": content}]}  # fmt: skip
        found = post(stand.url, asked)
        assert found.headers["x-aligner-corrected"] == "false; reason=no_question"
        assert found.json() == chat_reply("a beta")


def test_a_body_that_stops_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_SILENCE", 0.3)
    with standing(answering("a beta")) as stand:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{"
        with socket.create_connection(("127.0.0.1", int(stand.url.rpartition(":")[2])), timeout=20) as line:
            line.sendall(head.encode())
            found = b""
            while piece := line.recv(1 << 16):
                found += piece
        assert found.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in found
        assert not stand.upstream.calls
        assert not stand.app._under_way


def test_shadow_ends_what_it_began_before_it_stops(tmp_path: Path) -> None:
    out = tmp_path / "shadow"
    with standing(answering("a beta"), RuleCorrector(silent=0.5), mode="shadow", out=str(out)) as stand:
        post(stand.url, ASK)
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["correction"] for row in rows] == ["a omega"]


@pytest.mark.parametrize("whole", [True, False])
def test_shadow_counts_what_was_not_whole_when_the_client_left(whole: bool, tmp_path: Path) -> None:
    events = [f"data: {json.dumps(chunk)}" for chunk in chat_stream("a beta")]
    events = [*events, "data: [DONE]"] if whole else events[:-1]

    async def handler(call: Call) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            await call.send({"type": "http.response.body", "body": f"{event}\n\n".encode(), "more_body": True})
        await call.gone()

    out = tmp_path / "shadow"
    with standing(handler, mode="shadow", out=str(out)) as stand:
        with httpx2.stream("POST", stand.url + CHAT, json={**ASK, "stream": True}, timeout=20) as reply:
            assert events[-1] in reply.iter_lines()
        until = time.monotonic() + 20
        while stand.app._under_way and time.monotonic() < until:
            time.sleep(0.01)
        page = httpx2.get(stand.url + "/metrics").text
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["correction"] for row in rows] == ["a omega"] * whole
    assert f"aligner_shadow_dropped_total {float(not whole)}" in page.splitlines()
