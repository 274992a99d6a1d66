"""A load generator that costs little: a fixed number of connections, each with one request under way.

    python benchmarks/http_load.py --url URL --bodies FILE --concurrency N --seconds S [--warmup S] [--skip N]

FILE is a JSON list of request bodies, sent in turn from number --skip on. Written to standard output: requests per
second that ended within the window after the warm-up, their latencies and their statuses. Bytes are parsed in C, and
bodies are not read, so that what is measured is the server.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import cycle, islice
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop
from client_options import client_options


class Load:
    """What is sent, and what was seen."""

    def __init__(self, requests: list[bytes], skip: int) -> None:
        self.requests = islice(cycle(requests), skip % len(requests), None)
        self.over = False
        self.lost = 0
        self.took: list[tuple[float, float]] = []  # (when it ended, how long it took)
        self.statuses: Counter[int] = Counter()


class Connection(asyncio.Protocol):
    """One connection: a request, its reply, the next request."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost += not self._load.over
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        now = perf_counter()
        self._load.took.append((now, now - self._began))
        self._load.statuses[self._parser.get_status_code()] += 1
        if self._load.over:
            self._transport.close()
        else:
            self._next()

    def _next(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._began = perf_counter()
        self._transport.write(next(self._load.requests))


async def run(url: str, bodies: list[Any], concurrency: int, seconds: float, warmup: float, skip: int) -> Any:
    """Load a server; returns what was seen in the window."""
    at = urlsplit(url)
    head = f"POST {at.path} HTTP/1.1\r\nhost: {at.netloc}\r\ncontent-type: application/json\r\nauthorization: Bearer x"
    datas = [json.dumps(body).encode() for body in bodies]
    load = Load([f"{head}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data for data in datas], skip)
    loop = asyncio.get_running_loop()

    async def keep() -> None:
        while not load.over:
            _, connection = await loop.create_connection(lambda: Connection(load), at.hostname, at.port)
            await connection.gone

    workers = [asyncio.ensure_future(keep()) for _ in range(concurrency)]
    await asyncio.sleep(warmup)
    begin = perf_counter()
    await asyncio.sleep(seconds)
    end = perf_counter()
    load.over = True
    # What is still under way is not counted, but waited for: the next run begins on a quiet server.
    await asyncio.wait(workers, timeout=60)
    took = sorted(taken for ended, taken in load.took if begin < ended <= end)
    if not took:
        raise SystemExit(f"{url}: no request ended within {seconds:g} s")
    return {"rps": len(took) / (end - begin), "requests": len(took), "lost": load.lost, "statuses": load.statuses,
            "ms": {f"p{q}": 1e3 * took[min(len(took) * q // 100, len(took) - 1)] for q in (50, 90, 99)}}  # fmt: skip


def main() -> None:
    parser = client_options(__doc__, "--bodies")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()
    bodies = json.loads(options.bodies.read_text(encoding="utf-8"))
    found = uvloop.run(run(options.url, bodies, options.concurrency, options.seconds, options.warmup, options.skip))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
