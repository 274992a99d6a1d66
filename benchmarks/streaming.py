"""Streams: the wait for the first corrected word, read ahead and not; and sentence mode beside whole answers.

    python benchmarks/streaming.py --aligner DIR [--sentences DIR] [--only wait|omega] [--quick] [--json OUT.json]

Wait: an answer of more than 200 of the corrector's tokens comes token by token at a steady pace; seconds from its last
piece to the first piece of its correction, with the session fed as the answer came (ours) and with the whole answer
given at its end (theirs). The answers are answers of pocket upstreams, one after the other, and longer than a pocket
corrector's context: its positions are rotary and its window is widened, for what is measured is time.

Omega: mean over the dimensions of (wins − losses) / answers, corrected beside original, judged by the oracle on answers
of pocket upstreams that gave no triplet: a corrector of sentences (ours) and one of whole answers (theirs). Points are
hundredths; higher is better.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from common import row, write
from gate import Item, unseen_answers

from aligner import Aligner
from aligner.correct.card import checkpoint_place, load_card
from aligner.generate.hf import load_causal_lm
from aligner.pocket.oracle import Oracle, oracle
from aligner.types import Correction, Delta

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


def omega(judge: Oracle, items: Sequence[Item], corrections: Sequence[Correction]) -> dict[str, float]:
    """ω of each dimension, in points."""
    net: dict[str, int] = {}
    for item, correction in zip(items, corrections, strict=True):
        before, after = judge.scores(item.question, item.answer), judge.scores(item.question, correction.text)
        for d in before:
            net[d] = net.get(d, 0) + (after[d] > before[d]) - (after[d] < before[d])
    return {d: 100 * n / len(items) for d, n in net.items()}


def omega_rows(whole: Aligner, sentences: Aligner, judge: Oracle, quick: bool) -> list[dict[str, Any]]:
    items = unseen_answers(judge, 100 if quick else 600, 2)
    Random(0).shuffle(items)
    found = {}
    for name, aligner in (("whole", whole), ("sentences", sentences)):
        done = list(aligner.correct_batch((item.question.text, item.answer) for item in items))
        found[name] = omega(judge, items, done)
        print(name, {d: round(v, 1) for d, v in found[name].items()}, flush=True)
    means = {name: sum(points.values()) / len(points) for name, points in found.items()}
    return [
        row("omega of sentence mode", "whole answers", "mean of dimensions", "points", [means["sentences"]],
            [means["whole"]], answers=len(items), dimensions=found, higher_is_better=True,
            points_below=means["whole"] - means["sentences"]),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aligner", required=True)
    parser.add_argument("--sentences")
    parser.add_argument("--only", choices=("wait", "omega"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    judge = oracle(0)
    rows: list[dict[str, Any]] = []
    if arguments.only != "omega":
        with widened(arguments.aligner) as aligner:
            rows += wait_rows(aligner, judge, arguments.quick)
    if arguments.only != "wait" and arguments.sentences is not None:
        with (
            Aligner.from_pretrained(arguments.aligner) as whole,
            Aligner.from_pretrained(arguments.sentences) as sentences,
        ):
            rows += omega_rows(whole, sentences, judge, arguments.quick)
    for r in rows:
        print(f"{r['name']}: ours {r['ours']:.4f} {r['unit']}, {r['peer']} {r['theirs']:.4f}, ratio {r['ratio']:.2f}")
    write(rows, arguments.json)


if __name__ == "__main__":
    main()
