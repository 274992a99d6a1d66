"""The gateway as people use it: the openai client, a real corrector, real upstreams, the command line."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from aligner.correct.aligner import Aligner
from aligner.train.corrector import run as train
from tests.serving import (
    Call,
    Stand,
    Upstream,
    chat_chunk,
    chat_reply,
    chat_stream,
    serving_app,
    serving_command,
    standing,
)
from tests.training import tiny_config, toy_rows, write_rows

QUESTION: list[Any] = [{"role": "user", "content": "say four words"}]


@pytest.fixture(scope="module")
def corrector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corrector that was really trained: it makes "omega" of "beta"."""
    place = tmp_path_factory.mktemp("corrector")
    rows = write_rows(place / "rows.jsonl", toy_rows())
    train(tiny_config(rows, place / "run"))
    return place / "run"


@pytest.fixture(scope="module")
def example(corrector: Path) -> tuple[str, str, str]:
    """A question, an answer that this corrector changes, and the correction."""
    with Aligner.from_pretrained(corrector) as aligner:
        for row in toy_rows():
            got = aligner.correct(row["question"], row["answer"])
            if got.kept_because is None and not got.is_copy:
                return row["question"], row["answer"], got.text
    raise AssertionError("this corrector changes nothing")


@pytest.fixture(scope="module")
def stand(corrector: Path, example: tuple[str, str, str]) -> Iterator[Stand]:
    async def handler(call: Call) -> None:
        body = call.body
        if body.get("model") == "broken":
            await call.reply({"error": {"message": "no", "type": "x", "code": "y"}}, 418)
        elif body.get("stream"):
            usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            await call.stream([*chat_stream(example[1]), chat_chunk(None, usage=usage)])
        else:
            await call.reply(chat_reply(*[example[1]] * body.get("n", 1)))

    with Aligner.from_pretrained(corrector) as aligner, standing(handler, aligner) as found:
        yield found


def test_the_sync_client(stand: Stand, example: tuple[str, str, str]) -> None:
    question, answer, correction = example
    messages: list[Any] = [{"role": "user", "content": question}]
    with openai.OpenAI(base_url=f"{stand.url}/v1", api_key="k", max_retries=0) as client:
        got = client.chat.completions.create(model="m", messages=messages, n=3)
        assert [c.message.content for c in got.choices] == [correction] * 3
        stream = client.chat.completions.create(
            model="m", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        found = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in found if c.choices) == correction
        assert found[-1].usage is not None
        assert found[-1].usage.model_extra["aligner"]["completion_tokens"] > 0
        off = client.chat.completions.create(model="m", messages=messages, extra_body={"aligner": {"off": True}})
        assert off.choices[0].message.content == answer
        with pytest.raises(openai.APIStatusError, match="no") as failed:
            client.chat.completions.create(model="broken", messages=messages)
        assert failed.value.status_code == 418
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model="m", messages=[])


def test_the_async_client(stand: Stand, example: tuple[str, str, str]) -> None:
    question, _, correction = example
    messages: list[Any] = [{"role": "user", "content": question}]

    async def many() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{stand.url}/v1", api_key="k", max_retries=0) as client:

            async def one(streamed: bool) -> str:
                if not streamed:
                    got = await client.chat.completions.create(model="m", messages=messages)
                    return got.choices[0].message.content or ""
                stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
                return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

            return await asyncio.gather(*(one(bool(i % 2)) for i in range(16)))

    assert asyncio.run(many()) == [correction] * 16


def test_the_command_line(corrector: Path, example: tuple[str, str, str]) -> None:
    async def handler(call: Call) -> None:
        await call.reply(chat_reply(example[1]))

    with serving_app(Upstream(handler)) as url:
        options = ["serve", "--aligner", str(corrector), "--upstream", f"{url}/v1", "--upstream", f"again={url}/v1"]
        with serving_command(options) as (address, process):
            body = {"model": "again", "messages": [{"role": "user", "content": example[0]}]}
            reply = httpx2.post(address + "/v1/chat/completions", json=body, timeout=30).json()
            assert reply["choices"][0]["message"]["content"] == example[2]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) in (0, 130)
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.mark.slow
def test_a_real_upstream(corrector: Path, tmp_path: Path) -> None:
    """`transformers serve` on the trained checkpoint itself: whatever it says passes through or is corrected."""
    port = _free_port()
    (tmp_path / "hub").mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(corrector / "model"), "--host",
               "127.0.0.1", "--port", str(port), "--device", "cpu"]  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                        break
                except httpx2.HTTPError:
                    pass
                time.sleep(0.2)
            _ask_a_real_upstream(corrector, f"http://127.0.0.1:{port}/v1")
        finally:
            process.kill()


def _shown(streamed: list[Any]) -> tuple[str, bool]:
    """A stream's text, and whether a guard fired too late to take it back."""
    choices = [chunk.choices[0] for chunk in streamed if chunk.choices]
    told = (choices[-1].model_extra or {}).get("aligner") or {}
    return "".join(choice.delta.content or "" for choice in choices), told.get("late", False)


async def _asked_async(url: str, ask: dict[str, Any]) -> tuple[str, tuple[str, bool]]:
    """What the client for asyncio is answered, whole and streamed."""
    async with openai.AsyncOpenAI(base_url=url, api_key="k", timeout=120) as client:
        whole = await client.chat.completions.create(**ask)
        streamed = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
    return whole.choices[0].message.content or "", _shown(streamed)


def _ask_a_real_upstream(corrector: Path, upstream: str) -> None:
    async def unused(_: Call) -> None:
        raise AssertionError

    model = str(corrector / "model")
    ask: dict[str, Any] = {"model": model, "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    with openai.OpenAI(base_url=upstream, api_key="k", timeout=120) as direct:
        said = direct.chat.completions.create(**ask).choices[0]
        answer = said.message.content or ""
        listed = direct.models.list().data
    with (
        Aligner.from_pretrained(corrector) as aligner,
        standing(unused, aligner, upstream=(upstream,)) as stand,
        openai.OpenAI(base_url=f"{stand.url}/v1", api_key="k", timeout=120) as client,
    ):
        whole = bool(answer.strip()) and said.finish_reason != "length"
        corrected = aligner.correct(QUESTION, answer) if whole else None
        wanted = answer if corrected is None else corrected.text
        # What was sent is not taken back where only the whole text trips a guard; the last chunk says so then.
        written = answer if corrected is None else corrected.completion.text
        assert client.chat.completions.create(**ask).choices[0].message.content == wanted
        off = client.chat.completions.create(**ask, extra_body={"aligner": {"off": True}})
        assert off.choices[0].message.content == answer
        streamed = list(client.chat.completions.create(**ask, stream=True))
        assert _shown(streamed) in ((wanted, False), (written, True))
        assert streamed[-1].choices == [] or streamed[-1].choices[0].finish_reason
        assert asyncio.run(_asked_async(f"{stand.url}/v1", ask)) == (wanted, _shown(streamed))
        assert client.models.list().data == listed
