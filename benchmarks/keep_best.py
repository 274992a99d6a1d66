"""Keep-best on answers of pocket upstreams that no corrector was trained on, judged by the oracle.

    python benchmarks/keep_best.py --aligner DIR [--ranker self|reward] [--base DIR] [--pairs 8000] [--reward DIR]
                                   [--quick] [--json OUT.json]

The corrector itself, or a reward model, ranks the answer and its corrections; regressions (a dimension of the oracle's
scores below the answer's) beside one greedy correction. The reward model is trained here with TRL on pairs of the
training split: half of them are the teacher's correction over the answer, half the teacher's over a sampled one of the
corrector's own, for what it gets wrong looks otherwise than what upstreams get wrong. The margins refuse four of five,
and nine of ten, edits of training answers that the teacher leaves alone.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gate import correct, outcome, report, share_right, unseen_answers

from aligner import Aligner, RewardScorer
from aligner.correct.card import checkpoint_place
from aligner.correct.copy_scorer import CopyScorer
from aligner.correct.keep_best import KeepBest
from aligner.generate.collect import run_sync
from aligner.pocket.oracle import Oracle, oracle
from aligner.pocket.suite import triplets
from aligner.pocket.tasks import Tasks
from aligner.types import Sampling, Scorer

CANDIDATES = Sampling(temperature=0.7, seed=1)
REFUSED = (0.8, 0.9)


def training_pairs(aligner: Aligner, tasks: Tasks, pairs: int) -> Iterator[dict[str, Any]]:
    """Pairs of the training split: the teacher's correction over the answer, and over the corrector's own."""

    def side(question: Any, answer: str) -> list[dict[str, str]]:
        asked = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        return [*asked, {"role": "assistant", "content": answer}]

    drawn = list(triplets(tasks, 2 * pairs, 0))
    sampled = aligner.correct_each((t["question"], t["answer"], CANDIDATES) for t in drawn)
    rejected = {"answer": 0, "own": 0}
    for t, own in zip(drawn, sampled, strict=True):
        for kind, text in (("answer", t["answer"]), ("own", own.text)):
            if rejected[kind] < pairs // 2 and text != t["correction"] and (kind == "answer" or not own.is_copy):
                rejected[kind] += 1
                yield {"chosen": side(t["question"], t["correction"]), "rejected": side(t["question"], text)}


def reward_model(base: str, rows: Iterator[dict[str, Any]], place: Path) -> int:
    """Train a reward model; returns the number of pairs."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    data = Dataset.from_list(list(rows)).shuffle(seed=0)
    config = RewardConfig(
        output_dir=str(place / "trainer"), num_train_epochs=1, per_device_train_batch_size=32, learning_rate=1e-3,
        lr_scheduler_type="linear", warmup_steps=10, max_length=256, save_strategy="no", report_to=[], use_cpu=True,
        logging_steps=20, disable_tqdm=True, seed=0, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    trainer = RewardTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    trainer.model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return len(data)


def margins_for(aligner: Aligner, scorer: Scorer, tasks: Tasks, rows: int) -> list[float]:
    """By how much edits of answers that the teacher leaves alone score above these: the shares `REFUSED` of them.

    Of the training split, and of no pair that the reward model saw.
    """
    fine = [t for t in triplets(tasks, rows, 1) if t["answer"] == t["correction"]]
    own = aligner.correct_each((t["question"], t["answer"], CANDIDATES) for t in fine)
    edits = [c for c in own if not c.is_copy]
    gains = []
    for edit in edits:
        before, after = run_sync(scorer.score(edit.question, [edit.answer, edit.text]))
        gains.append(mean_score(after) - mean_score(before))
    return [max(0.0, float(np.quantile(gains, share))) for share in REFUSED]


def mean_score(scores: Mapping[str, float | None]) -> float:
    """As KeepBest ranks; an answer without a number is as bad as can be."""
    known = [value for value in scores.values() if value is not None]
    return math.fsum(known) / len(known) if known else -math.inf


def trained_ranker(
    aligner: Aligner, base: str, tasks: Tasks, pairs: int, reward: Path | None
) -> tuple[RewardScorer, int | None]:
    """A reward model, and how many pairs it was trained on: unknown of one that lies there already."""
    with tempfile.TemporaryDirectory() as directory:
        place, trained = reward or Path(directory), None
        if not (place / "config.json").is_file():
            trained = reward_model(base, training_pairs(aligner, tasks, pairs), place)
        return RewardScorer.from_pretrained(place, device="cpu"), trained


def keep_best_rows(
    aligner: Aligner, scorer: Scorer, judge: Oracle, quick: bool, trained: int | None
) -> list[dict[str, Any]]:
    items = unseen_answers(judge, 150 if quick else 1000, 1)
    alone = outcome(judge, items, correct(aligner, items))
    margins = margins_for(aligner, scorer, judge.tasks, 1000 if quick else 10_000)
    ranker = "itself" if isinstance(scorer, CopyScorer) else "a reward model"
    rows = []
    for count, least in ((4, 0.0), *((count, margin) for margin in margins for count in (4, 1))):
        best = KeepBest(aligner=aligner, ranker=scorer, count=count, margin=least)
        kept = list(best.correct_batch((item.question.text, item.answer) for item in items))
        after = outcome(judge, items, kept)
        ours, theirs = sum(after["worse"]) / len(items), sum(alone["worse"]) / len(items)
        rows.append({
            "name": f"keep-best of {count} and the answer, ranked by {ranker}, margin {least:.2f}",
            "peer": "one greedy correction",
            "metric": "regressions", "unit": "share", "ours": ours, "theirs": theirs,
            "ratio": theirs / ours if ours else None, "answers": len(items), "pairs": trained,
            "margin": least,
            "changed": sum(after["changed"]) / len(items), "changed_without": sum(alone["changed"]) / len(items),
            "kept": {why: sum(c.kept_because == why for c in kept) for why in ("not_better", "unscored")},
            "repaired": share_right(items, after["right"]), "repaired_without": share_right(items, alone["right"]),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aligner", type=Path, required=True, help="a corrector of the pocket suite")
    parser.add_argument("--ranker", choices=("self", "reward"), default="reward", help="who ranks")
    parser.add_argument("--base", help="what the reward model starts from; left out: the corrector's own weights")
    parser.add_argument("--pairs", type=int, help="how many pairs it is trained on; 8000, or 300 with --quick")
    parser.add_argument("--reward", type=Path, help="where the reward model is kept, or lies already")
    parser.add_argument("--quick", action="store_true", help="fewer answers and pairs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    place = checkpoint_place(options.aligner)
    with Aligner.from_pretrained(place) as aligner:
        aligner.gate, judge, trained = None, oracle(), None
        scorer: Scorer = CopyScorer(aligner)
        if options.ranker == "reward":
            pairs, base = options.pairs or (300 if options.quick else 8000), options.base or str(place)
            scorer, trained = trained_ranker(aligner, base, judge.tasks, pairs, options.reward)
        rows = keep_best_rows(aligner, scorer, judge, options.quick, trained)
    report(rows, options.json)


if __name__ == "__main__":
    main()
