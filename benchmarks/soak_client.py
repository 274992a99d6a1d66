"""Clients of the soak: every request is one of a plan, and every reply is checked against what the plan expects.

    python benchmarks/soak_client.py --url URL --questions FILE --requests N --concurrency N

Written to standard output: how often which reply came, and every reply that was not as documented.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from client_options import client_options
from mock_upstream import FAULTS

FAULTY, LEAVING = 0.05, 0.02
_Told = tuple[int, str | None]
# What the guide says becomes of each fault: the status and the code of a whole reply, and of a stream that has begun.
_BROKEN: dict[str, tuple[_Told, ...]] = {
    "status_500": ((500, None),),
    "status_429": ((429, None),),
    "reset": ((502, "upstream_unreachable"),),
    "half_closed": ((502, "upstream_unreachable"),),
    "truncated": ((502, "upstream_invalid"),),
    "stall": ((504, "upstream_timeout"),),
}
_BROKEN_STREAM: dict[str, tuple[_Told, ...]] = {
    **_BROKEN,
    # A RST throws away what was received and not read yet, which may be the head.
    "reset": ((200, "upstream_broke_off"), (502, "upstream_unreachable")),
    "half_closed": ((200, "upstream_broke_off"),),
    "truncated": ((200, "upstream_invalid"),),
    "stall": ((200, "upstream_timeout"),),
}


class Wrong(Exception):  # noqa: N818 (it is a finding)
    """A reply that is neither valid nor a documented error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One request: is it streamed, how does the upstream fail, after how many seconds does the client leave."""

    number: int
    question: str
    stream: bool
    fault: str | None
    leaves: float | None

    @classmethod
    def draw(cls, number: int, question: str) -> Planned:
        random = Random(f"soak:{number}")
        fault = random.choice(FAULTS) if random.random() < FAULTY else None
        leaves = random.choice((0.0, 0.01, 0.1, 0.5)) if random.random() < LEAVING else None
        return cls(number=number, question=question, stream=random.random() < 0.5, fault=fault, leaves=leaves)

    def data(self, host: str) -> bytes:
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": self.question}],
                                "seed": self.number, "stream": self.stream}  # fmt: skip
        if self.fault is not None:
            body["fault"] = self.fault
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data

    def check(self, status: int, headers: dict[str, str], body: bytes) -> str:
        """A word for a reply that is as it should be.

        Raises:
            Wrong: it is not.
        """
        told: tuple[_Told, ...] = ((200, None),)
        if self.fault is not None:
            told = (_BROKEN_STREAM if self.stream else _BROKEN)[self.fault]
        streamed = headers.get("content-type", "").startswith("text/event-stream")
        code = _stream(body) if streamed else _whole(status, body)
        if (status, code) not in told or (status == 200 and streamed != self.stream):
            raise Wrong(f"{status} {code} in place of {told}: {body[-300:]!r}")
        if status == 429 and "retry-after" not in headers:
            raise Wrong("429 without Retry-After")
        if status == 200 and not streamed and "x-aligner-corrected" not in headers:
            raise Wrong("nothing says whether it was corrected")
        return f"{'stream' if streamed else 'whole'} {status}{f' {code}' if code else ''}"


def _whole(status: int, body: bytes) -> str | None:
    try:
        value = json.loads(body)
        if status != 200:
            code = value["error"].get("code")
            return str(code) if code is not None else None
        if not value["choices"][0]["message"]["content"] or value["choices"][0]["finish_reason"] != "stop":
            raise Wrong(f"no whole answer: {body[-300:]!r}")
    except (ValueError, LookupError, TypeError) as e:
        raise Wrong(f"{status} that cannot be read ({e}): {body[-300:]!r}") from None
    return None


def _stream(body: bytes) -> str | None:
    """The code of the error that ends a stream; None where it is whole."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    try:
        values = [json.loads(line) for line in lines if line != b"[DONE]"]
        if "error" in values[-1]:
            if lines[-1] == b"[DONE]":
                raise Wrong("an error, and [DONE] after it")
            return str(values[-1]["error"]["code"])
        text = "".join(choice["delta"].get("content") or "" for value in values for choice in value["choices"])
        ends = [choice["finish_reason"] for value in values for choice in value["choices"] if choice["finish_reason"]]
    except (ValueError, LookupError, TypeError) as e:
        raise Wrong(f"a stream that cannot be read ({e}): {body[-300:]!r}") from None
    if not text or ends != ["stop"] or lines[-1] != b"[DONE]":
        raise Wrong(f"a stream that is not whole and tells no error: {body[-300:]!r}")
    return None


class Client:
    """One connection after another; each is used until its server or the plan closes it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, planned: Planned) -> str:
        """A word for what came of a request.

        Raises:
            Wrong: the reply was not as documented.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(planned.data(f"{self._host}:{self._port}"))
        try:
            async with asyncio.timeout(120 if planned.leaves is None else planned.leaves):
                status, headers, body = await _reply(reader)
        except TimeoutError:
            await self.close()
            if planned.leaves is None:
                raise Wrong("no reply within 120 s") from None
            return "left"
        except (asyncio.IncompleteReadError, OSError) as e:
            await self.close()
            raise Wrong(f"the reply broke off ({type(e).__name__})") from None
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return planned.check(status, headers, body)

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
    status = int(head[0].split(" ")[1])
    if "content-length" in headers:
        return status, headers, await reader.readexactly(int(headers["content-length"]))
    pieces: list[bytes] = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return status, headers, b"".join(pieces)


async def run(url: str, questions: list[str], requests: int, concurrency: int) -> dict[str, Any]:
    """Send the whole plan; returns what came of it."""
    at = urlsplit(url)
    numbers = iter(range(requests))
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    seconds: list[float] = []

    async def work() -> None:
        client = Client(at.hostname or "", at.port or 0)
        for number in numbers:
            planned = Planned.draw(number, questions[number % len(questions)])
            began = perf_counter()
            try:
                outcomes[await client.ask(planned)] += 1
            except (Wrong, OSError) as e:
                outcomes["wrong"] += 1
                wrong.append(f"{planned}: {e}")
                await client.close()
            else:
                if planned.fault is None and planned.leaves is None:
                    seconds.append(perf_counter() - began)
        await client.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds.sort()
    latency = {f"p{q}": round(1e3 * seconds[len(seconds) * q // 100], 1) for q in (50, 90, 99)}
    plan = [Planned.draw(number, "") for number in range(requests)]
    return {
        "planned": {"faults": sum(p.fault is not None for p in plan),
                    "leaving": sum(p.leaves is not None for p in plan)},
        "outcomes": dict(outcomes.most_common()), "wrong": wrong[:50], "ms": latency,
    }  # fmt: skip


def main() -> None:
    parser = client_options(__doc__, "--questions")
    parser.add_argument("--requests", type=int, required=True)
    options = parser.parse_args()
    questions = json.loads(options.questions.read_text(encoding="utf-8"))
    print(json.dumps(asyncio.run(run(options.url, questions, options.requests, options.concurrency))))


if __name__ == "__main__":
    main()
