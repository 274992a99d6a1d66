"""The gateway under a crowd, faults and clients that leave: is every reply as documented, and is anything left over?

    python benchmarks/soak.py [--quick] [--aligner DIR] [--requests N] [--silence SECONDS] [--json OUT.json]

10,000 requests (1,000 with --quick), 64 under way, half of them streamed, every answer corrected. The upstream fails in
5 % of them (a reset, 500, 429, silence, JSON that is cut, a connection that closes half-way), and 2 % of the clients
leave. The gateway runs in this process, so that its memory, tasks, sockets and rows can be counted; the upstream and
the clients are processes of their own. Memory is judged without the corrector's cache, which is shown beside it: it
grows to the longest answers, up to the corrector's context. Exit status 1 where something was not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import socket
import statistics
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import servers
import uvicorn
from common import write
from correction import corrector_place
from gateway import asked

from aligner import Aligner
from aligner.correct.decoding import StepLoop
from aligner.correct.ticket import Ticket
from aligner.serve.asgi import Exchange
from aligner.serve.config import ServeConfig
from aligner.serve.gateway import Gateway
from aligner.serve.options import Options
from aligner.serve.run import gateway, server_settings

CONCURRENCY = 64
WARM = 0.2  # share of the run after which memory must be flat
FLAT = 0.1
# Idle connections to the upstream close after four seconds.
QUIET = 6.0


async def soak(app: Gateway, settings: uvicorn.Config, requests: int, questions: Path) -> dict[str, Any]:
    """Serve the crowd; returns what it saw, memory over time, and what is left over."""
    process = psutil.Process()
    with socket.socket() as bound:
        bound.bind((settings.host, 0))
        bound.listen(256)
        server = uvicorn.Server(settings)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            await asyncio.sleep(0.05)
        tasks = asyncio.all_tasks()
        files, began = process.num_fds(), perf_counter()
        crowd = await asyncio.create_subprocess_exec(
            sys.executable, str(servers.HERE / "soak_client.py"), "--url", f"http://127.0.0.1:{bound.getsockname()[1]}",
            "--questions", str(questions), "--requests", str(requests), "--concurrency", str(CONCURRENCY),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        reading = asyncio.create_task(crowd.communicate())
        memory = await _memory(process, app, reading)
        took = perf_counter() - began
        seen = json.loads((await reading)[0])
        del reading
        await asyncio.sleep(QUIET)
        gc.collect()
        left = _left(app, process, files, asyncio.all_tasks() - tasks)
        server.should_exit = True
        await serving
    return {"requests": requests, "seconds": took, "requests_per_second": requests / took, **seen,
            "memory": _flatness(memory), "left": left}  # fmt: skip


async def _memory(process: psutil.Process, app: Gateway, until: asyncio.Task[Any]) -> list[tuple[int, int]]:
    """Bytes of the process, and those of the corrector's cache among them, twice a second."""
    loop = _loop(app)
    samples: list[tuple[int, int]] = []
    while not until.done():
        tensors = (held for layer in loop._cache.layers for held in (layer.keys, layer.values))
        samples.append((process.memory_info().rss, sum(held.nbytes for held in tensors if held is not None)))
        await asyncio.sleep(0.5)
    return samples


def _flatness(samples: list[tuple[int, int]]) -> dict[str, Any]:
    """MB after the warm-up (the median of a tenth of the run) and at the end (of the last tenth).

    The cache has room for as many positions as the longest answers took that were corrected together, so it grows
    when a longer one comes, up to the context; the rest must not grow.
    """
    tenth = max(len(samples) // 10, 1)
    warm = int(len(samples) * WARM)
    found: dict[str, Any] = {"start_mb": round(samples[0][0] / 1e6, 1)}
    columns = {"all": [rss for rss, _ in samples], "cache": [cache for _, cache in samples],
               "rest": [rss - cache for rss, cache in samples]}  # fmt: skip
    for name, column in columns.items():
        after, end = statistics.median(column[warm : warm + tenth]), statistics.median(column[-tenth:])
        sizes = {"warm_mb": after, "end_mb": end, "most_mb": max(column[warm:])}
        ratio = round(end / after, 4) if after else None
        found[name] = {**{key: round(size / 1e6, 1) for key, size in sizes.items()}, "end_over_warm": ratio}
    return found


def _left(app: Gateway, process: psutil.Process, files: int, tasks: set[asyncio.Task[Any]]) -> dict[str, int]:
    """What should be nothing, once all clients are gone."""
    loop = _loop(app)
    objects = gc.get_objects()
    return {
        "tasks": len(tasks),
        "sockets": sum(c.status != psutil.CONN_LISTEN for c in process.net_connections("tcp")),
        "files": max(process.num_fds() - files, 0),
        "requests": app._under_way,
        "waiting": app.corrected.policy.waiting,
        "rows": loop.unfinished,
        "rows read ahead": loop.open_rows,
        "tickets": sum(type(o) is Ticket for o in objects),
        "exchanges": sum(type(o) is Exchange for o in objects),
    }


def _loop(app: Gateway) -> StepLoop:
    corrector = app.corrected.choice.pick(Options())
    assert isinstance(corrector, Aligner), "the soak's corrector runs in this process"
    return corrector._loop


def verdict(found: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    said = [f"{len(found['wrong'])} replies were not as documented"] if found["wrong"] else []
    grown = found["memory"]["rest"]["end_over_warm"]
    if abs(grown - 1) > FLAT:
        said.append(f"memory beside the cache ended at {grown:.2f} of what it was after the warm-up")
    return [*said, *(f"{count} {name} left over" for name, count in found["left"].items() if count)]


def _run(main: Coroutine[Any, Any, dict[str, Any]], settings: uvicorn.Config) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        return runner.run(main)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 requests")
    parser.add_argument("--aligner", type=Path, help="a corrector of the pocket suite")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--silence", type=float, default=2.0, help="seconds after which a silent upstream has failed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    requests = options.requests or (1_000 if options.quick else 10_000)
    pairs = asked(requests)
    with (
        tempfile.TemporaryDirectory() as name,
        Aligner.from_pretrained(options.aligner or corrector_place(quick=False)) as aligner,
    ):
        work = Path(name)
        (work / "answers.json").write_text(json.dumps([answer for _, answer in pairs]), encoding="utf-8")
        (work / "questions.json").write_text(json.dumps([question for question, _ in pairs]), encoding="utf-8")
        with servers.upstream(work, work / "answers.json") as behind:
            config = ServeConfig(aligner="in-process", upstream=(f"{behind}/v1",), upstream_timeout=options.silence)
            app = gateway(config, aligner)
            settings = server_settings(config, app)
            found = _run(soak(app, settings, requests, work / "questions.json"), settings)
    found["wanted"] = verdict(found)
    print(json.dumps({k: v for k, v in found.items() if k != "wrong"}, indent=2))
    for line in found["wrong"]:
        print(line, file=sys.stderr)
    write([found], options.json)
    if found["wanted"]:
        raise SystemExit("; ".join(found["wanted"]))


if __name__ == "__main__":
    main()
