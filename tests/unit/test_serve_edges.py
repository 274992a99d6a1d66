"""Requests at the gateway's edges: base URLs without /v1, images alone, bodies that stop, a server that stops."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from aligner.errors import ConfigError
from aligner.serve import asgi
from aligner.serve.config import ServeConfig
from aligner.serve.run import gateway
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


@pytest.mark.parametrize("what", [f"POST {CHAT}", "GET /v1/models", "POST /v1/files", "DELETE /v1/files/x"])
def test_a_body_that_stops_is_not_waited_for(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(call: Call) -> None:
        raise AssertionError("half a body is answered")

    monkeypatch.setattr(asgi, "_SILENCE", 0.3)
    with standing(handler) as stand:
        head = f"{what} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{"
        with socket.create_connection(("127.0.0.1", int(stand.url.rpartition(":")[2])), timeout=20) as line:
            line.sendall(head.encode())
            found = b""
            while piece := line.recv(1 << 16):
                found += piece
        assert found.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in found
        assert not stand.app._under_way


@pytest.mark.parametrize(
    ("path", "more", "reason", "count"),
    [
        (CHAT, {"aligner": {"off": True}}, "off", 1),
        (CHAT, {"aligner": {"off": True}, "n": 3}, "off", 3),
        (CHAT, {"aligner": {"off": True}, "n": 10**400}, "off", 4096),  # the upstream does not heed it
        (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, "no_question", 1),
        (CHAT, {"messages": [*ASK["messages"], {"role": "assistant", "content": "It"}]}, "prefill", 1),
        (CHAT, {"guided_regex": "a+"}, "structured_output", 1),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "infill", 1),
    ],
)
def test_what_is_left_alone_by_its_request_is_counted(path: str, more: Any, reason: str, count: int) -> None:
    with standing(answering("a beta")) as stand:
        assert post(stand.url, {**ASK, **more}, path).headers["x-aligner-corrected"] == f"false; reason={reason}"
        page = httpx2.get(stand.url + "/metrics").text.splitlines()
    assert f'aligner_kept_total{{reason="{reason}"}} {float(count)}' in page
    assert f'aligner_answers_total{{outcome="untouched"}} {float(count)}' in page


@pytest.mark.parametrize("mode", [{}, {"mode": "shadow"}])
def test_what_is_not_of_the_share_is_counted_and_an_error_is_not(mode: Any, tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await (call.reply(chat_reply("a beta")) if call.body["model"] == "m" else call.reply({}, 400))

    out = {"out": str(tmp_path / "shadow")} if mode else {}
    with standing(handler, share=0.0, **mode, **out) as stand:
        post(stand.url, ASK)
        assert post(stand.url, {**ASK, "model": "none"}).status_code == 400
        page = httpx2.get(stand.url + "/metrics").text.splitlines()
    assert 'aligner_kept_total{reason="share"} 1.0' in page


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("application/x-www-form-urlencoded", "application/json"),
        (None, "application/json"),
        ("Application/JSON; charset=utf-8", "Application/JSON; charset=utf-8"),
        ("application/vnd.x+json", "application/vnd.x+json"),
    ],
)
@pytest.mark.parametrize("off", [True, False])
def test_a_body_that_is_json_is_called_so(sent: str | None, told: str, off: bool) -> None:
    with standing(answering("a beta")) as stand:
        headers = {"content-type": sent} if sent else {}
        headers |= {"x-aligner": "off"} if off else {}
        httpx2.post(stand.url + CHAT, content=json.dumps(ASK).encode(), headers=headers, timeout=20)
        httpx2.post(stand.url + "/v1/files", content=b"x", headers=headers, timeout=20)
        first, second = stand.upstream.calls
    assert [value for name, value in first.headers if name == "content-type"] == [told]
    assert second.header("content-type") == sent


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


def test_shadow_mode_empties_no_corrector(tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    config = ServeConfig(aligner=str(tmp_path / "run" / "model"), upstream=("http://localhost:1/v1",), mode="shadow",
                         out=tmp_path / "run")  # fmt: skip
    with pytest.raises(ConfigError, match="lies in the run's own directory"):
        gateway(config, RuleCorrector(), "overwrite")
    assert (tmp_path / "run" / "model").is_dir()
