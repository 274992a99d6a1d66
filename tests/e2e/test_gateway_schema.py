"""No request that our OpenAPI document allows, or forbids, makes the gateway fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.serving import Call, chat_reply, chat_stream, standing


async def _any_upstream(call: Call) -> None:
    """Answers whatever is asked, as lenient servers do."""
    try:
        body = call.body
    except ValueError:
        body = {}
    if call.method == "GET":
        await call.reply({"object": "list", "data": [{"id": "m"}]})
    elif call.path.startswith("/v1/responses"):
        part = {"type": "output_text", "text": "a beta"}
        await call.reply({"output": [{"type": "message", "role": "assistant", "content": [part]}]})
    elif isinstance(body, dict) and body.get("stream"):
        await call.stream(chat_stream("a beta"))
    else:
        await call.reply({**chat_reply("a beta"), "text": "beta"})


def test_the_document_names_every_endpoint() -> None:
    with standing(_any_upstream) as stand:
        value = httpx2.get(f"{stand.url}/openapi.json").json()
    own = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health", "/metrics"}
    assert set(value["paths"]) == own
    assert json.loads(json.dumps(value)) == value


@pytest.mark.slow
def test_no_request_makes_a_server_error(tmp_path: Path) -> None:
    with standing(_any_upstream) as stand:
        command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{stand.url}/openapi.json",
                   "--checks", "not_a_server_error", "--max-examples", "60", "--workers", "1", "--seed", "1",
                   "--phases", "examples,coverage,fuzzing", "--generation-database", "none"]  # fmt: skip
        found = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path)
        page = httpx2.get(f"{stand.url}/metrics").text
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-1000:]
    assert 'status="500"' not in page
    assert 'endpoint="/v1/chat/completions",status="200"' in page
