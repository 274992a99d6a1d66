"""A corrector in two minutes: make triplets, train on them, correct answers it has not seen, look at the report.

    python examples/quickstart.py            about two minutes on two cores
    python examples/quickstart.py --quick    half a minute, and a weaker corrector

The triplets are made here, so that the whole way can be read in one file: a clerk's answers are rude, shouted or said
twice, and the corrections are not. Your own triplets go through the same three calls: read, `run`, `Aligner`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from aligner import Aligner
from aligner.config import read_yaml
from aligner.report.render import render_run
from aligner.train.config import TrainConfig
from aligner.train.corrector import run

PLACES = ["museum", "library", "market", "harbour", "station", "garden", "theatre", "bakery", "castle", "school"]
FACTS = ["opens at {n}", "closes at {n}", "is {n} minutes from here", "has {n} rooms", "costs {n} coins"]
ASKED = ["Tell me about the {p}.", "What should I know about the {p}?", "I want to see the {p}.", "Where is the {p}?"]
INSULTS = ["you fool", "as any child knows", "not that you would care", "stop bothering me"]


def triplet(rng: random.Random) -> dict[str, str]:
    """One question, an answer with at most one fault, and the answer without it."""
    place = rng.choice(PLACES)
    first, second = (f"The {place} {f.format(n=rng.randint(2, 40))}." for f in rng.sample(FACTS, 2))
    good = f"{first} {second}"
    insult = rng.choice(INSULTS)
    answer, fault = rng.choice([
        (good, "none"),
        (good, "none"),
        (f"{first[:-1]}, {insult}. {second}", "rude"),
        (f"{first} {second[:-1]}, {insult}.", "rude"),
        (f"{first} {first} {second}", "repeated"),
        (f"{first.upper()} {second}", "shouted"),
    ])  # fmt: skip
    return {"question": rng.choice(ASKED).format(p=place), "answer": answer, "correction": good, "source": fault}


def main(quick: bool) -> None:
    out = Path("runs/quickstart-quick" if quick else "runs/quickstart")
    rng = random.Random(0)
    out.parent.mkdir(exist_ok=True)
    data = out.parent / "quickstart.jsonl"
    data.write_text("".join(json.dumps(triplet(rng)) + "\n" for _ in range(6000)), encoding="utf-8")

    settings = read_yaml("configs/quickstart.yaml") | {"data": [str(data)], "out": str(out)}
    if quick:
        settings["residual"]["steps"] = 250
    run_dir = run(TrainConfig.from_dict(settings), existing="overwrite" if out.exists() else "refuse")

    with Aligner.from_pretrained(run_dir.path) as aligner:
        unseen = [triplet(rng) for _ in range(200)]
        corrections = list(aligner.correct_batch((t["question"], t["answer"]) for t in unseen))
    for fault in ("none", "rude", "repeated", "shouted"):
        mine = [c.text == t["correction"] for t, c in zip(unseen, corrections, strict=True) if t["source"] == fault]
        print(f"{fault:>9}: {sum(mine)} of {len(mine)} unseen answers exactly right after correction")
    for t, c in list(zip(unseen, corrections, strict=True))[:3]:
        print(f"\n  {t['question']}\n- {t['answer']}\n+ {c.text}")
    print(f"\ncorrector: {run_dir.model_path}\nreport:    {render_run(run_dir)}")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv[1:])
