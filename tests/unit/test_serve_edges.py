"""Requests at the gateway's edges: base URLs without /v1, images alone, bodies that stop, a server that stops."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from aligner.serve import endpoint
from tests.serving import Call, RuleCorrector, chat_reply, standing
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
