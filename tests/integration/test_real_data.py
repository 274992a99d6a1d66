"""Real triplets and somebody else's model: trained on, fine-tuned, corrected with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from aligner import Aligner, Sampling
from aligner.objectives import sft_loss
from aligner.prompts import PromptFormat
from aligner.tokens import TextCodec
from aligner.train.config import Residual, Scratch, Warmup
from aligner.train.corrector import run
from aligner.triplets import read_triplets
from tests.real import REAL_DATA, needs_real_data, real_triplets, stories_model, stories_tokenizer
from tests.training import tiny_config, write_rows

pytestmark = needs_real_data

# A long answer and answers in several scripts: what a laptop's corrector must get through without harm.
FOREIGN = [
    ("Wie geht es dir?", "Mir geht es gut, danke der Nachfrage!"),
    ("什么是光合作用？", "光合作用是植物利用阳光把水和二氧化碳变成糖的过程。"),
    ("ما هي عاصمة مصر؟", "عاصمة مصر هي القاهرة."),
    ("Что такое π?", "Число π — отношение длины окружности к диаметру 🥧."),
    ("", "An edit without a question."),
    ("code?", "```python\nprint('</s><|end|><|im_end|>')\n```"),
]


@pytest.fixture(scope="module")
def corrector(tmp_path_factory):
    """About 300k parameters, a minute at most, on real edits, real question-answer pairs and long answers."""
    out = tmp_path_factory.mktemp("real")
    rows = [
        {"question": t.question, "answer": t.answer, "correction": t.correction, "source": t.source}
        for source, count in (
            ("iterater", 300),
            ("jfleg", 500),
            ("truthfulqa", 500),
            ("paradetox", 700),
            ("xstest", 60),
        )
        for t in real_triplets(source, count)
    ]
    config = tiny_config(
        write_rows(out / "rows.jsonl", rows),
        out / "run",
        scratch=Scratch(layers=2, hidden=96, heads=4, vocabulary=1500),
        max_length=256,
        held_out=0.1,
        samples=3,
        save_every=1000,
        warmup=Warmup(share=0.2, epochs=1, batch_size=16, accumulation=1, learning_rate=3e-3),
        residual=Residual(steps=120, batch_size=16, accumulation=1, learning_rate=3e-3),
    )
    return run(config)


def test_the_held_out_loss_falls_for_every_source(corrector) -> None:
    table = {row["source"]: row for row in corrector.result()["held_out"]}
    assert {"iterater", "jfleg", "truthfulqa", "paradetox", "all"} <= set(table)
    for source, row in table.items():
        assert row["loss"] < row["loss_before"] - 1, source
    assert corrector.result()["rows"]["dropped"]["too_long"] > 0


def test_it_corrects_real_questions_and_answers_long_and_foreign_ones_included(corrector) -> None:
    real = [(t.question, t.answer) for t in real_triplets("aligner2b", 40)]
    with Aligner.from_pretrained(corrector.path, sampling=Sampling(max_new_tokens=40)) as aligner:
        pairs = [*real, *FOREIGN]
        corrections = list(aligner.correct_batch(pairs))
        assert [c.answer for c in corrections] == [answer for _, answer in pairs]
        assert any(c.kept_because == "too_long" for c in corrections), "some real answers are longer than 256 tokens"
        assert any(c.kept_because != "too_long" for c in corrections)
        for c in corrections:
            assert c.text.strip()
            if c.kept_because is not None:
                assert c.text == c.answer
            assert "".join(e.text for e in c.diff if e.op != "insert") == c.answer
            assert "".join(e.text for e in c.diff if e.op != "delete") == c.text


def test_the_official_format_reads_the_same_from_every_container(tmp_path) -> None:
    source = REAL_DATA / "triplets" / "do_not_answer.jsonl.xz"
    triplets = list(read_triplets(source))
    assert len(triplets) == 172
    rows = [
        {"question": t.question, "answer": t.answer, "correction": t.correction, "source": t.source} for t in triplets
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    with gzip.open(tmp_path / "lines.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for name in ("list.json", "lines.jsonl.gz"):
        assert list(read_triplets(tmp_path / name)) == triplets
    assert len({t.id for t in triplets}) == len({(t.question, t.answer, t.correction) for t in triplets})


def test_every_real_row_reads_as_a_triplet_and_encodes() -> None:
    tokenizer = stories_tokenizer()
    codec = TextCodec(tokenizer)
    prompt = PromptFormat.preset("aligner-repo", tokenizer)
    for path in sorted((REAL_DATA / "triplets").glob("*.xz")):
        for i, triplet in enumerate(read_triplets(path)):
            assert triplet.source
            if i % 200 == 0:
                ids = prompt.encode(codec, triplet.chat, triplet.answer).ids
                assert codec.reserved.isdisjoint(ids[1:])


def story_loss(model, tokenizer, text: str) -> float:
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return float(sft_loss(model(ids).logits, ids, torch.ones_like(ids, dtype=torch.bool)))


def test_somebody_elses_model_converts_fine_tunes_and_corrects(tmp_path: Path) -> None:
    model, tokenizer = stories_model(), stories_tokenizer()
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    shuffled = "park the in outside play to loved She. Lily named girl little a was there, time a upon Once."
    assert tokenizer.decode(tokenizer(story)["input_ids"], skip_special_tokens=True) == story
    assert story_loss(model, tokenizer, story) < 1.2, "a converted model that knows stories finds this one likely"
    assert story_loss(model, tokenizer, shuffled) > 2.5
    base = tmp_path / "stories"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)

    rows = [
        {"question": "", "answer": t.answer, "correction": t.correction, "source": "jfleg"}
        for t in real_triplets("jfleg", 300)
    ]
    config = tiny_config(
        write_rows(tmp_path / "rows.jsonl", rows),
        tmp_path / "run",
        scratch=None,
        model=str(base),
        prompt="aligner-repo",
        max_length=512,
        warmup=Warmup(share=0.5, epochs=1, batch_size=8, accumulation=1, learning_rate=1e-3),
        residual=Residual(steps=60, batch_size=8, accumulation=1, learning_rate=1e-3),
        save_every=1000,
    )
    run_dir = run(config)
    figures = run_dir.result()["held_out"][-1]
    assert figures["loss"] < figures["loss_before"] - 0.5
    with Aligner.from_pretrained(run_dir.path) as aligner:
        assert [a.name for a in aligner.card.lineage] == ["rows.jsonl", "stories"]
        correction = aligner.correct("", "She have a dog .")
        assert correction.completion.usage.completion_tokens > 0
        assert correction.kept_because in (None, "cut", "script_leak")
