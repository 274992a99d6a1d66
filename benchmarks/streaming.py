"""Streams: the wait for the first corrected word, read ahead and not.

    python benchmarks/streaming.py --aligner DIR [--quick] [--json OUT.json]

Wait: an answer of more than 200 of the corrector's tokens comes token by token at a steady pace; seconds from its last
piece to the first piece of its correction, with the session fed as the answer came (ours) and with the whole answer
given at its end (theirs). The answers are answers of pocket upstreams, one after the other, and longer than a pocket
corrector's context: its positions are rotary and its window is widened, for what is measured is time.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from common import row, write
from gate import unseen_answers

from aligner import Aligner
from aligner.correct.card import checkpoint_place, load_card
from aligner.generate.hf import load_causal_lm
from aligner.pocket.oracle import Oracle, oracle
from aligner.types import Delta

PACE = 0.02  # seconds from token to token of the upstream, as a hosted model writes
LEAST = 200  # tokens of an answer, more than
CONTEXT = 2048


def widened(place: str) -> Aligner:
    """A corrector whose context holds long answers."""
    path = checkpoint_place(place)
    model, tokenizer = load_causal_lm(path)
    model.config.max_position_embeddings = max(model.config.max_position_embeddings, CONTEXT)
    return Aligner(model, tokenizer, load_card(path, tokenizer))


def long_answers(aligner: Aligner, judge: Oracle, count: int) -> list[tuple[str, str]]:
    """Pocket answers joined until each has more than LEAST tokens, and their last question."""
    items = iter(unseen_answers(judge, 40 + 12 * count, 1))
    found = []
    while len(found) < count:
        texts: list[str] = []
        while len(aligner.codec.encode(" ".join(texts))) <= LEAST:
            item = next(items)
            texts.append(item.answer)
        found.append((item.question.text, " ".join(texts)))
    return found


async def first(deltas: AsyncIterator[Delta]) -> None:
    """Wait for the first text, then leave."""
    async for delta in deltas:
        if delta.text:
            break
    await deltas.aclose()  # type: ignore[attr-defined]


async def waited(aligner: Aligner, question: str, answer: str, *, ahead: bool, pace: float) -> float:
    """Seconds from the answer's last piece to the first one of its correction."""
    words = answer.split(" ")
    pieces = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
    session = aligner.open(question) if ahead else None
    for piece in pieces:
        await asyncio.sleep(pace)
        if session is not None:
            session.push(piece)
    begin = time.perf_counter()
    await first(session.stream(answer) if session is not None else aligner.stream(question, answer))
    return time.perf_counter() - begin


def wait_rows(aligner: Aligner, judge: Oracle, quick: bool) -> list[dict[str, Any]]:
    answers = long_answers(aligner, judge, 4 if quick else 16)
    ours, theirs = [], []
    for question, answer in [answers[0], *answers]:  # the first once more, for warmth
        theirs.append(asyncio.run(waited(aligner, question, answer, ahead=False, pace=0.0)))
        ours.append(asyncio.run(waited(aligner, question, answer, ahead=True, pace=PACE)))
    lengths = [len(aligner.codec.encode(answer)) for _, answer in answers]
    return [
        row("wait for the first corrected text", "not read ahead", "median of answers", "s", ours[1:], theirs[1:],
            answer_tokens=[min(lengths), max(lengths)], pace=PACE),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aligner", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with widened(arguments.aligner) as aligner:
        rows = wait_rows(aligner, oracle(0), arguments.quick)
    for r in rows:
        print(f"{r['name']}: ours {r['ours']:.4f} {r['unit']}, {r['peer']} {r['theirs']:.4f}, ratio {r['ratio']:.2f}")
    write(rows, arguments.json)


if __name__ == "__main__":
    main()
