"""An OpenAI-compatible upstream that answers at once, in a process of its own, and fails where a request says so.

    python benchmarks/mock_upstream.py --port N [--answers FILE]

FILE is a JSON list of answers; a request's `seed`, which every proxy passes on, is the number of its own. A request's
field `fault` is one of FAULTS. Streams come in pieces of three words with pauses, so that they can break in the middle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import httptools
import uvloop

FIXED = "The capital of France is Paris. It lies on the Seine, and about two million people live there."
FAULTS = ("reset", "status_500", "status_429", "stall", "truncated", "half_closed")
_WORDS, _PAUSE = 3, 0.002
_REFUSALS = {
    "status_500": (b"500 Internal Server Error", b'{"error":{"message":"it broke","type":"server_error"}}', b""),
    "status_429": (b"429 Too Many Requests", b'{"error":{"message":"too many","type":"rate_limit"}}',
                   b"retry-after: 1\r\n"),
}  # fmt: skip


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, answers: list[str]) -> None:
        self._answers = answers
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._writing is not None:
            self._writing.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def eof_received(self) -> bool:
        return False

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        request = json.loads(b"".join(self._body) or b"{}")
        answer = self._answers[request["seed"]] if self._answers else FIXED
        fault = request.get("fault")
        if fault in _REFUSALS:
            status, body, headers = _REFUSALS[fault]
            self._transport.write(_head(status, b"application/json", len(body), headers) + body)
        elif fault == "stall" and not request.get("stream"):
            return
        elif fault == "reset" and not request.get("stream"):
            self._reset()
        elif request.get("stream"):
            self._writing = asyncio.ensure_future(self._stream(answer, fault))
        else:
            self._whole(answer, fault)

    def _whole(self, answer: str, fault: str | None) -> None:
        body = json.dumps(_completion(answer)).encode()
        if fault == "truncated":
            body = body[: len(body) // 2]
        head = _head(b"200 OK", b"application/json", len(body))
        if fault == "half_closed":
            self._transport.write(head + body[: len(body) // 2])
            self._transport.write_eof()
        else:
            self._transport.write(head + body)

    async def _stream(self, answer: str, fault: str | None) -> None:
        self._transport.write(_head(b"200 OK", b"text/event-stream; charset=utf-8", None))
        words = answer.split(" ")
        pieces = [" ".join(words[i : i + _WORDS]) for i in range(0, len(words), _WORDS)]
        self._chunk(_event(_delta({"role": "assistant", "content": ""})))
        for i, piece in enumerate(pieces):
            if fault and i >= len(pieces) // 2:
                break
            self._chunk(_event(_delta({"content": piece if i == 0 else f" {piece}"})))
            await asyncio.sleep(_PAUSE)
        if fault == "stall":
            return
        if fault == "reset":
            self._reset()
        elif fault == "half_closed":
            self._transport.write_eof()
        elif fault == "truncated":
            self._chunk(_event(_delta({"content": "never"}))[:-20] + b"\n\n")
            self._transport.write(b"0\r\n\r\n")
        else:
            self._chunk(_event(_delta({}, "stop")) + b"data: [DONE]\n\n")
            self._transport.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _reset(self) -> None:
        """Close with a RST, and not with a FIN as a server that ends well."""
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _head(status: bytes, kind: bytes, length: int | None, more: bytes = b"") -> bytes:
    size = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\n%b%b\r\n\r\n" % (status, kind, more, size)


def _completion(answer: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "logprobs": None,
              "finish_reason": "stop"}  # fmt: skip
    usage = {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
            "usage": usage}  # fmt: skip


def _delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def serve(port: int, answers: list[str]) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answers), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answers", type=Path)
    options = parser.parse_args()
    answers = json.loads(options.answers.read_text(encoding="utf-8")) if options.answers else []
    uvloop.run(serve(options.port, answers))


if __name__ == "__main__":
    main()
