"""ASGI applications on real loopback sockets, a scripted upstream, and a corrector that follows one rule."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from aligner.correct import outcome
from aligner.errors import GenerationError
from aligner.prompts import EncodedPrompt
from aligner.serve.config import ServeConfig
from aligner.serve.gateway import Gateway
from aligner.serve.run import gateway
from aligner.types import Completion, Correction, Delta, Usage, as_chat


@contextmanager
def serving_app(app: Any) -> Iterator[str]:
    """Serve an ASGI application until the block ends; yields http://127.0.0.1:PORT."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(256)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="on",
                                ws="none", timeout_graceful_shutdown=5)  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving_command(options: list[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `aligner serve …` at a free port until the block ends; yields http://127.0.0.1:PORT and the process."""
    command = [sys.executable, "-m", "aligner.cli", *options, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert found, said
            yield found[0], process
        finally:
            process.kill()


@dataclass(slots=True)
class RuleCorrector:
    """Replaces "beta" by "omega", word by word. `fails`, `silent` and `keeps` make it misbehave."""

    fails: bool = False
    silent: float = 0.0
    keeps: Any = None
    asked: list[tuple[Any, str]] = field(default_factory=list)
    left: int = 0
    now: int = 0
    most: int = 0

    async def acorrect(self, question: Any, answer: str, sampling: Any = None) -> Correction:
        self.asked.append((question, answer))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.silent)
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.now -= 1
        if self.fails:
            raise GenerationError("the corrector failed: no more memory")
        return self._made(question, answer)

    async def stream(self, question: Any, answer: str, sampling: Any = None) -> AsyncIterator[Delta]:
        self.asked.append((question, answer))
        try:
            if self.fails:
                yield Delta(text=answer)
                yield Delta(text="", finish_reason="error", usage=Usage(), kept_because="error")
                return
            made = self._made(question, answer)
            words = made.text.split(" ")
            for i, word in enumerate(words):
                await asyncio.sleep(self.silent)
                yield Delta(text=word if i == 0 else f" {word}")
            yield Delta(text="", finish_reason="stop", usage=made.completion.usage, kept_because=self.keeps)
        except (asyncio.CancelledError, GeneratorExit):
            self.left += 1
            raise

    def _made(self, question: Any, answer: str) -> Correction:
        text = answer.replace("beta", "omega")
        usage = Usage(prompt_tokens=len(answer.split()), completion_tokens=len(text.split()))
        completion = Completion(text=text, finish_reason="stop", usage=usage)
        chat = as_chat(question)
        if self.keeps is not None:
            return outcome.kept(chat, answer, EncodedPrompt(ids=()), completion, self.keeps)
        return Correction(question=chat, answer=answer, text=text, completion=completion)


@dataclass(slots=True, kw_only=True)
class Call:
    """One request that reached the upstream, and ways to answer it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    data: bytes
    receive: Any
    send: Any

    @property
    def body(self) -> Any:
        return json.loads(self.data)

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k == name), None)

    async def reply(self, body: Any, status: int = 200, **headers: str) -> None:
        """JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        pairs = [(k.encode(), v.encode()) for k, v in sent.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": data})

    async def stream(self, chunks: list[Any], *, done: bool = True, pause: float = 0.0) -> None:
        """Server-sent events; bytes as they are."""
        pairs = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await self.send({"type": "http.response.start", "status": 200, "headers": pairs})
        for chunk in chunks:
            data = chunk if isinstance(chunk, bytes) else b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await self.send({"type": "http.response.body", "body": data, "more_body": True})
            await asyncio.sleep(pause)
        await self.send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if done else b""})

    async def gone(self) -> None:
        """Wait until the client closes its connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Call], Awaitable[None]]


class Upstream:
    """A scripted server; keeps what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.calls: list[Call] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        data = b""
        while True:
            message = await receive()
            data += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = scope["query_string"].decode()
        call = Call(
            method=scope["method"], path=scope["raw_path"].decode() + (f"?{query}" if query else ""),
            headers=[(k.decode(), v.decode()) for k, v in scope["headers"]], data=data, receive=receive, send=send,
        )  # fmt: skip
        self.calls.append(call)
        await self.handler(call)


def chat_reply(*texts: str | None, **more: Any) -> dict[str, Any]:
    """A chat completion with a choice for every text."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": t}, "logprobs": None, "finish_reason": "stop"}
        for i, t in enumerate(texts)
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    base = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**base, "choices": choices, "usage": usage, **more}


def chat_chunk(delta: dict[str, Any] | None, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk of a chat's stream; without a delta one that has no choice."""
    choices = [] if delta is None else [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
    base = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "system_fingerprint": "f",
    }
    return {**base, "choices": choices, **more}


def chat_stream(text: str, **first: Any) -> list[dict[str, Any]]:
    """A chat's stream, word by word."""
    words = text.split(" ")
    chunks = [chat_chunk({"role": "assistant", "content": "", **first})]
    chunks += [chat_chunk({"content": w if i == 0 else f" {w}"}) for i, w in enumerate(words)]
    return [*chunks, chat_chunk({}, "stop")]


@dataclass(slots=True, kw_only=True)
class Stand:
    """A gateway in front of a scripted upstream."""

    url: str
    app: Gateway
    upstream: Upstream
    upstream_url: str
    corrector: Any


@contextmanager
def standing(handler: Handler, corrector: Any = None, **settings: Any) -> Iterator[Stand]:
    """A gateway over loopback; `settings` are those of `aligner serve`."""
    corrector = RuleCorrector() if corrector is None else corrector
    upstream = Upstream(handler)
    with serving_app(upstream) as url:
        values = {"aligner": "unused", "upstream": (f"{url}/v1",), **settings}
        app = gateway(ServeConfig.from_dict(values), corrector)
        with serving_app(app) as own:
            yield Stand(url=own, app=app, upstream=upstream, upstream_url=url, corrector=corrector)
