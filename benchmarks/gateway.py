"""The gateway beside LiteLLM's proxy, one worker each, in front of an upstream that answers at once.

    python benchmarks/gateway.py [--quick] [--aligner DIR] [--only off|on] [--json OUT.json]

Off: nothing is corrected (`--share 0`), at 1, 16 and 64 requests under way. Requests per second, and the median latency
that is added to going to the upstream directly, which is measured in the same turns.

On: every answer is corrected (a corrector of the pocket suite, M; trained first where the cache has none), 80 % of the
answers faultless, 16 requests under way, no answer twice. Beside the same gateway that corrects one answer at a time,
with the answer as a draft (`--max-rows 1`) and without (and `--speculate false`); and beside LiteLLM with a hook that
calls the same corrector in its process, in batches as ours.

The load generator, the upstream and the servers are processes of their own on the same cores, pinned to none. LiteLLM
lives in a virtual environment that is made under runs/peers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import servers
from common import row, write
from correction import answers, corrector_place

CONCURRENCY = (1, 16, 64)
FINE = 0.8


def off(work: Path, corrector: Path, quick: bool) -> list[dict[str, Any]]:
    """Correction off, beside LiteLLM and no gateway at all."""
    seconds, repeats = (2.0, 3) if quick else (6.0, 5)
    bodies = work / "body.json"
    bodies.write_text(json.dumps([_body("What is the capital of France?")]), encoding="utf-8")
    rows: list[dict[str, Any]] = []
    with ExitStack() as running:
        direct = running.enter_context(servers.upstream(work))
        urls = {
            "direct": direct,
            "ours": running.enter_context(servers.gateway(work, corrector, direct, "--share", "0")),
            "litellm": running.enter_context(servers.litellm(work, direct)),
        }
        said = {name: _text(servers.post(url, _body("What is the capital of France?"))) for name, url in urls.items()}
        if len(set(said.values())) != 1:
            raise SystemExit(f"the answers differ: {said}")
        for concurrency in CONCURRENCY:
            seen: dict[str, list[Any]] = {name: [] for name in urls}
            for _ in range(repeats):
                for name, url in urls.items():
                    seen[name].append(servers.loaded(url, bodies, concurrency, seconds, warmup=1.0))
            rows += _off_rows(concurrency, seen)
            _say(rows[-2:])
    return rows


def _off_rows(concurrency: int, seen: dict[str, list[Any]]) -> list[dict[str, Any]]:
    added = {
        name: [one["ms"]["p50"] - base["ms"]["p50"] for one, base in zip(seen[name], seen["direct"], strict=True)]
        for name in ("ours", "litellm")
    }
    name, extra = f"off, {concurrency} under way", {"shown": {peer: _shown(runs) for peer, runs in seen.items()}}
    return [
        _rates(name, "LiteLLM", seen["ours"], seen["litellm"], **extra),
        row(name, "LiteLLM", "added p50", "ms", added["ours"], added["litellm"]),
    ]


def on(work: Path, corrector: Path, quick: bool) -> list[dict[str, Any]]:
    """Correction on, beside one at a time and LiteLLM's hook."""
    seconds, repeats = (6.0, 3) if quick else (15.0, 5)
    turn = int(seconds + 1) * 200  # more answers than any of them corrects in one turn
    pairs = asked(turn * (repeats + 1))
    bodies, texts = work / "bodies.json", work / "answers.json"
    bodies.write_text(json.dumps([_body(q, seed=i) for i, (q, _) in enumerate(pairs)]), encoding="utf-8")
    texts.write_text(json.dumps([answer for _, answer in pairs]), encoding="utf-8")
    with ExitStack() as running:
        direct = running.enter_context(servers.upstream(work, texts))
        urls = {
            "ours": running.enter_context(servers.gateway(work, corrector, direct)),
            "one at a time": running.enter_context(servers.gateway(work, corrector, direct, "--max-rows", "1")),
            "one at a time, token by token": running.enter_context(
                servers.gateway(work, corrector, direct, "--max-rows", "1", "--speculate", "false")
            ),
            "LiteLLM with a hook": running.enter_context(servers.litellm(work, direct, corrector)),
        }
        last = [_body(q, seed=len(pairs) - 1 - i) for i, (q, _) in enumerate(reversed(pairs[-24:]))]
        said = {name: [_text(servers.post(url, body)) for body in last] for name, url in urls.items()}
        for peer, texts_there in said.items():
            if sum(a != b for a, b in zip(said["ours"], texts_there, strict=True)) > 2:  # near-ties may fall otherwise
                raise SystemExit(f"{peer} does not give the same corrections, so there is nothing to compare")
        changed = sum(text != answer for text, (_, answer) in zip(said["ours"], reversed(pairs[-24:]), strict=True))
        seen: dict[str, list[Any]] = {name: [] for name in urls}
        for repeat in range(repeats):
            for name, url in urls.items():
                seen[name].append(servers.loaded(url, bodies, 16, seconds, warmup=1.0, skip=turn * repeat))
    rows = []
    for peer in list(urls)[1:]:
        differ = sum(a != b for a, b in zip(said["ours"], said[peer], strict=True))
        rows.append(_rates("on, 16 under way", peer, seen["ours"], seen[peer],
                           shown={"ours": _shown(seen["ours"]), peer: _shown(seen[peer])},
                           compared={"answers": len(last), "changed": changed, "differ": differ}))  # fmt: skip
    _say(rows)
    return rows


def asked(count: int) -> list[tuple[str, str]]:
    """Questions and answers, 80 % faultless."""
    fine = round(count * FINE)
    found = [*answers(0, fine, 11), *answers(1, count - fine, 11)]
    Random(11).shuffle(found)
    return found


def _body(question: str, **more: int) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": question}], **more}


def _text(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def _rates(name: str, peer: str, ours: list[Any], theirs: list[Any], **extra: Any) -> dict[str, Any]:
    mine, other = ([one["rps"] for one in runs] for runs in (ours, theirs))
    found = row(name, peer, "requests per second", "1/s", mine, other, **extra)
    return {**found, "ratio": 1 / found["ratio"]}  # more is better


def _shown(runs: list[Any]) -> dict[str, Any]:
    """The middle run of several, by its requests per second."""
    middle = sorted(runs, key=lambda one: one["rps"])[len(runs) // 2]
    return {"rps": round(middle["rps"], 1), "requests": middle["requests"],
            **{f"{q}_ms": round(ms, 3) for q, ms in middle["ms"].items()}}  # fmt: skip


def _say(rows: list[dict[str, Any]]) -> None:
    for r in rows:
        print(f"{r['name']:<20} {r['metric']:<20} ours {r['ours']:9.3f}  {r['peer']} {r['theirs']:9.3f} {r['unit']}"
              f"  ratio {r['ratio']:.2f}", flush=True)  # fmt: skip
        for peer, shown in r.get("shown", {}).items():
            print(f"    {peer}: {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter runs, fewer of them")
    parser.add_argument("--aligner", type=Path, help="a corrector of the pocket suite")
    parser.add_argument("--only", choices=("off", "on"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    corrector = options.aligner or corrector_place(quick=False)
    servers.litellm_environment()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for name, part in (("off", off), ("on", on)):
            if options.only in (None, name):
                print(f"correction {name} …", file=sys.stderr)
                rows += part(Path(work), corrector, options.quick)
    write(rows, options.json, peers={"litellm": servers.LITELLM})


if __name__ == "__main__":
    main()
