"""CopyScorer: a corrector ranks its own corrections by how likely it is to leave each as it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from aligner import Aligner, Sampling
from aligner.correct.copy_scorer import CopyScorer
from aligner.correct.keep_best import KeepBest
from aligner.correct.pace import Pace
from aligner.correct.run import CorrectConfig, run
from aligner.errors import ConfigError, GenerationError
from aligner.rows import dumps, read_rows
from aligner.types import as_chat
from tests.models import byte_bpe_tokenizer, tiny_model
from tests.taught import FINE, WRONG, taught_aligner

ANSWERS = ("the cat sat on the mat", "", "the dog", "a cat, a cat, a cat")


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return taught_aligner()


def untaught() -> Aligner:
    tokenizer = byte_bpe_tokenizer()
    return Aligner(tiny_model("llama", tokenizer), tokenizer, replace(taught_aligner().card, gate=None))


def scores(scorer: CopyScorer, question: str, *answers: str) -> list[float | None]:
    return [s["copied"] for s in asyncio.run(scorer.score(as_chat(question), answers))]


def test_scores_are_the_log_probabilities_of_copies(aligner) -> None:
    chat = as_chat(WRONG.question)
    for answer, score in zip(ANSWERS, scores(CopyScorer(aligner), WRONG.question, *ANSWERS), strict=True):
        copy = aligner.card.prompt.encode_correction(aligner.codec, answer)
        prompt = aligner.card.prompt.encode(aligner.codec, chat, answer, max_tokens=200).ids
        with torch.inference_mode():
            logits = aligner.model(torch.tensor([[*prompt, *copy]])).logits[0, len(prompt) - 1 : -1]
        likely = logits.double().log_softmax(-1).gather(1, torch.tensor(copy)[:, None]).sum()
        assert score == pytest.approx(float(likely), abs=1e-3)


def test_what_needs_a_correction_scores_below_the_correction(aligner) -> None:
    wrong, right = scores(CopyScorer(aligner), WRONG.question, WRONG.answer, WRONG.correction)
    assert wrong < right
    assert right > -1


def test_it_ranks_as_any_scorer_and_needs_no_other_model(aligner) -> None:
    best = KeepBest(aligner=aligner, ranker=CopyScorer(aligner), count=3)
    found = list(best.correct_batch([(t.question, t.answer) for t in (WRONG, FINE) * 40]))
    assert [c.text for c in found] == [WRONG.correction, FINE.answer] * 40
    assert all(c.kept_because is None for c in found)


def test_nothing_is_written_and_the_corrector_keeps_its_gate(aligner) -> None:
    before = aligner.gate
    written: list[int] = []
    reader = CopyScorer(aligner)._reader
    for answer in ANSWERS:
        read = reader.correct(WRONG.question, answer)
        written.append(read.completion.usage.completion_tokens)
        assert read.gate is not None
        assert read.gate.passed
    assert written == [0] * len(ANSWERS)
    assert aligner.gate is before


def test_the_correctors_own_limit_of_tokens_is_not_the_scorers(aligner) -> None:
    whole = scores(CopyScorer(aligner), WRONG.question, ANSWERS[0])
    short = aligner.with_gate("off")
    short.sampling = Sampling(max_new_tokens=2)
    assert scores(CopyScorer(short), WRONG.question, ANSWERS[0]) == whole


def test_what_does_not_fit_has_no_score() -> None:
    with untaught() as small:
        long = "word " * small.context
        assert scores(CopyScorer(small), "q", long, "fits")[0] is None
        assert scores(CopyScorer(small), "q", long, "fits")[1] is not None


def test_a_corrector_that_fails_is_a_failure() -> None:
    made = untaught()
    scorer = CopyScorer(made)
    made.close()
    with pytest.raises(GenerationError):
        scores(scorer, WRONG.question, "anything")


def test_a_corrector_that_does_not_verify_cannot_rank(aligner) -> None:
    plain = aligner.with_gate("off")
    plain.speculate = False
    with pytest.raises(ConfigError, match=r"scorer=self.*token by token"):
        CopyScorer(plain)


def test_a_corrector_of_sentences_cannot_rank() -> None:
    made = untaught()
    made.card = replace(made.card, prompt=replace(made.card.prompt, unit="sentence"))
    with made, pytest.raises(ConfigError, match=r"scorer=self.*sentence by sentence"):
        CopyScorer(made)


def test_scores_are_read_in_one_pass_and_teach_nothing_about_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where long drafts do not pay, answers are read to their end for their scores all the same."""
    monkeypatch.setattr(Pace, "first", lambda *_: 1)
    with untaught() as made:
        texts = ["the cat sat on the mat and the dog sat on the cat " * 2] * 16
        list(made.correct_batch([("q", text) for text in texts]))
        pace = made._loop._passes.pace
        before = (list(pace._first), list(pace._whole), dict(pace._rates))
        assert None not in scores(CopyScorer(made), "q", *texts)
        assert (list(pace._first), list(pace._whole), dict(pace._rates)) == before
        passes = made._loop.forward_passes
        scores(CopyScorer(made), "q", texts[0])
        assert made._loop.forward_passes == passes + 1


def test_a_files_corrections_are_ranked_by_their_corrector(aligner, tmp_path) -> None:
    aligner.save_pretrained(tmp_path / "model")
    rows = [{"question": t.question, "answer": t.answer} for t in (WRONG, FINE)]
    (tmp_path / "in.jsonl").write_text("".join(dumps(row) + "\n" for row in rows))
    config = CorrectConfig(
        aligner=str(tmp_path / "model"), input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", best_of=2,
        scorer="self", margin=0.1, device="cpu",
    )  # fmt: skip
    high = config.model_copy(update={"output": tmp_path / "high.jsonl", "margin": 1e6})
    assert run(high).kept == {"not_better": 1}
    summary = run(config)
    assert (summary.changed, summary.copies, summary.failed) == (1, 1, 0)
    assert [row.value["correction"] for row in read_rows(tmp_path / "out.jsonl")] == [WRONG.correction, FINE.answer]
