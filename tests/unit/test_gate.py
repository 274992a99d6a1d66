"""The gate: what it lets through, what that costs, and the rate at which it may lose corrections."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from aligner import Aligner, Sampling, Triplet
from aligner.cli import main
from aligner.correct import calibrate as calibrate_module
from aligner.correct.calibrate import CalibrateConfig
from aligner.correct.calibrate import run as calibrate
from aligner.correct.card import AlignerCard
from aligner.correct.decoding import StepLoop
from aligner.correct.gate import (
    ALWAYS,
    NEVER,
    Gate,
    GateCalibration,
    HeldOutScore,
    calibrate_scores,
    copy_score,
    gate_of,
    rows_needed,
    threshold_for,
)
from aligner.correct.guards import GuardPolicy
from aligner.correct.pace import Pace
from aligner.correct.ticket import Decoded, Request
from aligner.errors import CheckpointError, ConfigError, DataError
from aligner.evaluate.config import CorrectorSpec
from aligner.evaluate.inputs import _check_card
from aligner.prompts import PromptFormat
from tests.models import byte_bpe_tokenizer, tiny_model

PAIRS = [(f"question {i}", "the cat sat on the mat " * (i % 4 + 1)) for i in range(9)]


@pytest.fixture(scope="module")
def parts():
    tokenizer = byte_bpe_tokenizer()
    card = AlignerCard(prompt=PromptFormat.preset("chat", tokenizer, instruction="", request=""))
    return tiny_model("llama", tokenizer), tokenizer, card


def log_probs(aligner: Aligner, question: str, answer: str) -> list[float]:
    """Of the answer's ids, by a plain forward pass without a cache."""
    from aligner.types import as_chat

    prompt = aligner.card.prompt.encode(aligner.codec, as_chat(question), answer, max_tokens=400).ids
    copy = aligner.card.prompt.encode_correction(aligner.codec, answer)
    with torch.inference_mode():
        logits = aligner.model(torch.tensor([[*prompt, *copy]])).logits[0].double()
    return [float(logits[len(prompt) - 1 + i].log_softmax(-1)[token]) for i, token in enumerate(copy)]


def test_the_score_is_the_copys_log_probability(parts) -> None:
    with Aligner(*parts, gate=NEVER, max_rows=4) as aligner:
        found = list(aligner.correct_batch(PAIRS))
        for (question, answer), correction in zip(PAIRS, found, strict=True):
            expected = log_probs(aligner, question, answer)
            assert correction.gate is not None
            assert correction.gate.score == pytest.approx(sum(expected), abs=1e-3)
            assert correction.gate.tokens == correction.completion.usage.prompt_tokens + len(expected)
            assert not correction.gate.passed


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.5, seed=3)], ids=["greedy", "sampled"])
def test_what_does_not_pass_is_corrected_as_without_a_gate(parts, sampling) -> None:
    with Aligner(*parts, sampling=sampling, max_rows=4) as plain:
        expected = [(c.text, c.completion, c.kept_because) for c in plain.correct_batch(PAIRS)]
    with Aligner(*parts, sampling=sampling, gate=NEVER, max_rows=4) as gated:
        assert [(c.text, c.completion, c.kept_because) for c in gated.correct_batch(PAIRS)] == expected


def test_what_passes_is_untouched_and_costs_one_pass(parts, monkeypatch) -> None:
    answer = "  the cat\tsat \r\n"  # no tokenizer's round trip touches it
    with Aligner(*parts, gate=ALWAYS) as aligner:
        correction = aligner.correct("q", answer)
        assert aligner._loop.forward_passes == 1
        assert correction.text == answer
        assert correction.is_copy
        assert correction.kept_because is None
        assert correction.gate is not None
        assert correction.gate.passed
        assert correction.completion.usage.completion_tokens == 0
        assert correction.completion.finish_reason == "stop"
        monkeypatch.setattr(Pace, "fixed", math.inf)
        list(aligner.correct_batch(PAIRS))
        assert aligner._loop.forward_passes == 2


def test_a_batch_in_which_some_pass(parts) -> None:
    """Each row is decided alone, and those that go on are not disturbed by those that leave."""
    with Aligner(*parts, gate=NEVER, max_rows=4) as scoring:
        scored = list(scoring.correct_batch(PAIRS))
    # Between two scores: another pass has other last digits.
    below, above = sorted(c.gate.score for c in scored if c.gate is not None)[4:6]
    assert above - below > 1e-3
    with Aligner(*parts, gate=Gate(threshold=(below + above) / 2), max_rows=4) as aligner:
        found = list(aligner.correct_batch(PAIRS))
    passed = [c.gate is not None and c.gate.passed for c in found]
    assert sum(passed) == 4
    for plain, gated, went in zip(scored, found, passed, strict=True):
        assert gated.text == (gated.answer if went else plain.text)


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("first", "width"), [(0, 0), (0, 2), (3, 1), (2, 64), (64, 64)])
def test_what_is_read_piece_by_piece_is_decided_the_same(first, width, temperature, monkeypatch) -> None:
    """Answers that the model begins to copy, copies to the end, or leaves at once, in one batch."""
    model = tiny_model("llama", 400)
    random, stop = Random(7), frozenset({5})

    def requests(gate: Gate | None, answers: list[tuple[int, ...]]) -> list[Request]:
        return [
            Request(
                prompt=(20 + i, 21, 22),
                max_new_tokens=14,
                stop_ids=stop,
                answer=answer,
                gate=gate,
                sampling=Sampling(temperature=temperature, seed=i),
            )
            for i, answer in enumerate(answers)
        ]

    def decoded(gate: Gate | None, answers: list[tuple[int, ...]]) -> list[Decoded]:
        with StepLoop(model, max_rows=4) as loop:
            return [loop.wait(t) for t in [loop.submit(r) for r in requests(gate, answers)]]

    own = [d.ids for d in decoded(None, [()] * 12)]
    other = tuple(random.randrange(30, 400) for _ in range(6))
    answers = [
        (*ids[:most], *other[: i % 3], 5) for i, (ids, most) in enumerate(zip(own, [14, 9, 4, 1] * 3, strict=True))
    ]
    answers = [answer[:14] for answer in answers]
    plain, scored = decoded(None, answers), decoded(NEVER, answers)
    scores = [d.gate.score for d in scored if d.gate is not None]
    assert len(scores) == len(answers)
    monkeypatch.setattr(Pace, "first", lambda _self, most, _rows: min(first, most))
    monkeypatch.setattr(Pace, "width", lambda *_: width)
    saved = 0
    for threshold in sorted(scores)[1::3]:
        gate = Gate(threshold=threshold + 1e-3)  # what was read by another pass has other last digits
        saved += sum(d.gate.tokens for d in scored if d.gate is not None)
        for score, alone, found in zip(scores, plain, decoded(gate, answers), strict=True):
            assert found.gate is not None
            assert found.gate.passed == (score > gate.threshold)
            assert found.ids == (() if found.gate.passed else alone.ids)
            assert found.gate.score == pytest.approx(score, abs=1e-3) or not found.gate.passed
            saved -= found.gate.tokens
    assert saved > 0 or first == 64


def test_an_answer_longer_than_what_may_be_written_is_not_decided(parts) -> None:
    with Aligner(*parts, gate=ALWAYS, sampling=Sampling(max_new_tokens=2)) as aligner:
        assert aligner.correct("q", "the cat sat on the mat").gate is None


def test_only_a_gate_decides() -> None:
    model = tiny_model("llama", 400)
    request = Request(prompt=(20, 21), max_new_tokens=8, stop_ids=frozenset({5}), answer=(30, 31, 5))
    with StepLoop(model) as loop:
        assert loop.wait(loop.submit(request)).gate is None
    with pytest.raises(ConfigError, match="needs the ids"):
        Request(prompt=(20,), max_new_tokens=8, stop_ids=frozenset({5}), gate=ALWAYS)


@pytest.mark.parametrize("gate", [ALWAYS, NEVER])
def test_a_stream_is_decided_before_its_first_piece(parts, gate) -> None:
    async def streamed(aligner: Aligner, answer: str):
        return [delta async for delta in aligner.stream("q", answer)]

    # What is written at random may be of any script, which would end the stream.
    with Aligner(*parts, gate=gate, guards=GuardPolicy(script_leak="off")) as aligner:
        whole = aligner.correct("q", "the cat sat ")
        deltas = asyncio.run(streamed(aligner, "the cat sat "))
    assert "".join(d.text for d in deltas) == (whole.completion.text or whole.text)
    assert deltas[-1].gate == whole.gate
    assert deltas[-1].gate is not None
    assert deltas[-1].gate.passed == (gate is ALWAYS)
    if gate is ALWAYS:
        assert [d.text for d in deltas] == ["the cat sat ", ""]


def test_a_gate_needs_the_first_pass_and_a_calibration(parts) -> None:
    with pytest.raises(ConfigError, match="speculate"):
        Aligner(*parts, gate=ALWAYS, speculate=False)
    with pytest.raises(CheckpointError, match="never calibrated; do it with `aligner calibrate`"):
        Aligner(*parts, gate="balanced")
    with pytest.raises(ConfigError, match="off, balanced, strict"):
        Aligner(*parts, gate="loose")  # type: ignore[arg-type]


# -- calibration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.2, 0.1, 0.01])
def test_a_threshold_keeps_its_promise_on_new_rows(rate: float) -> None:
    """Simulated: over many draws of n rows and one more, the new one passes at most at the rate, and nearly at it."""
    generator = np.random.default_rng(0)
    n = rows_needed(rate) + 3
    exceeded = []
    for _ in range(4000):
        *known, new = generator.gumbel(size=n + 1).tolist()
        threshold = threshold_for(known, rate)
        assert threshold is not None
        exceeded.append(new > threshold)
    spread = 4 * math.sqrt(rate / 4000)
    assert rate * (n - 3) / n - spread - 1 / n <= np.mean(exceeded) <= rate + spread


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 0.002])
def test_too_few_rows_promise_nothing(rate: float) -> None:
    n = rows_needed(rate)
    assert threshold_for([float(i) for i in range(n)], rate) == n - 1
    assert threshold_for([float(i) for i in range(n - 1)], rate) is None


def rows(needed: int, faultless: int = 50) -> list[HeldOutScore]:
    random = Random(0)
    made = [HeldOutScore(score=random.gauss(-9, 3), needed=True, changed=True) for _ in range(needed)]
    return made + [HeldOutScore(score=random.gauss(-1, 1), needed=False, changed=False) for _ in range(faultless)]


def test_modes_are_calibrated_as_far_as_the_rows_reach() -> None:
    few = calibrate_scores(rows(120))
    assert list(few.thresholds) == ["balanced"]
    with pytest.raises(CheckpointError, match=r"gate=strict: 120 held-out rows .* takes 499"):
        few.gate("strict")
    many = calibrate_scores(rows(600))
    assert many.thresholds["balanced"] < many.thresholds["strict"]
    assert many.passed["balanced"] >= many.passed["strict"]
    assert (many.needed, many.faultless) == (600, 50)
    with pytest.raises(DataError, match="98 held-out rows need a correction; to calibrate a gate takes 99"):
        calibrate_scores(rows(98))


def test_what_the_corrector_copies_anyway_is_not_lost() -> None:
    """A teacher's needless edits score like good answers; they must not close the gate."""
    missed = [HeldOutScore(score=-0.01, needed=True, changed=False)] * 30
    assert calibrate_scores([*rows(600), *missed]).thresholds["balanced"] < -1
    lost = [HeldOutScore(score=-0.01, needed=True, changed=True)] * 30
    assert calibrate_scores([*rows(600), *lost]).thresholds["balanced"] == -0.01


def test_where_nothing_is_changed_the_threshold_is_still_a_number() -> None:
    unchanged = [HeldOutScore(score=-float(i), needed=True, changed=False) for i in range(200)]
    assert calibrate_scores(unchanged).thresholds["balanced"] == -199.0


def test_scores_that_are_no_finite_number_spoil_no_threshold() -> None:
    """They pass nothing, so they count as rows that are never lost, and the file holds finite numbers."""
    odd = [HeldOutScore(score=score, needed=True, changed=True) for score in (math.nan, -math.inf)] * 150
    never = [HeldOutScore(score=-1e6, needed=True, changed=True)] * 300
    assert calibrate_scores([*odd, *rows(600)]).thresholds == calibrate_scores([*never, *rows(600)]).thresholds
    saved = json.dumps(calibrate_scores(odd).to_json(), allow_nan=False)
    assert GateCalibration.from_json(json.loads(saved), "card").thresholds["balanced"] == 0.0


def test_a_calibration_holds_at_its_dial_strength_alone() -> None:
    calibration = calibrate_scores(rows(120))
    assert gate_of(calibration, "balanced", "x") == Gate(threshold=calibration.thresholds["balanced"])
    with pytest.raises(ConfigError, match=r"at the dial strength 0 and says nothing at 0\.5"):
        gate_of(calibration, "balanced", "x", strength=0.5)
    assert gate_of(calibration, "off", "x", strength=0.5) is None


def test_a_calibration_holds_for_its_weights_alone() -> None:
    calibration = replace(calibrate_scores(rows(120)), quantize="int4")
    assert gate_of(calibration, "balanced", "x", quantize="int4") is not None
    with pytest.raises(ConfigError, match="calibrated with quantize=int4 and says nothing of none; calibrate again"):
        gate_of(calibration, "balanced", "x")
    assert GateCalibration.from_json(calibration.to_json(), "card") == calibration
    older = {name: value for name, value in calibration.to_json().items() if name != "quantize"}
    assert GateCalibration.from_json(older, "card").quantize == "none"


def test_no_number_never_passes() -> None:
    for gate, log_prob in ((ALWAYS, math.nan), (Gate(threshold=-5.0), -math.inf)):
        decision = gate.decide([log_prob], 1, 3)
        assert decision is not None
        assert not decision.passed
    assert copy_score([]) == 0.0


def test_triplets_are_not_all_held_while_a_gate_is_calibrated(parts, monkeypatch) -> None:
    drawn, ahead = 0, []

    def triplets() -> Iterator[Triplet]:
        nonlocal drawn
        for i in range(120):
            drawn += 1
            yield Triplet(question=f"q{i}", answer="a cat", correction="a dog")

    def scored(**values: Any) -> HeldOutScore:
        ahead.append(drawn - len(ahead))
        return HeldOutScore(**values)

    monkeypatch.setattr(calibrate_module, "HeldOutScore", scored)
    with Aligner(*parts, max_rows=4) as aligner:
        assert aligner.calibrate(triplets()).needed == len(ahead) == 120
    assert max(ahead) < 12


def test_a_calibration_survives_saving(parts, tmp_path: Path) -> None:
    model, tokenizer, card = parts
    random = Random(1)
    words = ["cat", "dog", "mat", "fox"]
    triplets = []
    for i in range(130):
        answer = " ".join(random.choice(words) for _ in range(4))
        triplets.append(Triplet(question=f"q{i}", answer=answer, correction=answer + "!" if i % 10 else answer))
    with Aligner(model, tokenizer, card, sampling=Sampling(temperature=2.0)) as aligner:
        found = aligner.calibrate(triplets)
        assert (found.needed, found.faultless, found.strength) == (117, 13, 0.0)
        assert aligner.calibrate(triplets) == found  # greedy, whatever the corrector is set to
        aligner.save_pretrained(tmp_path / "c")
    with Aligner.from_pretrained(tmp_path / "c", gate="balanced") as again:
        assert again.card.gate == found
        assert again.gate == found.gate("balanced")
    with pytest.raises(CheckpointError, match=r"c: gate=strict: 117 held-out rows"):
        Aligner.from_pretrained(tmp_path / "c", gate="strict")
    # Another prompt is another corrector.
    with pytest.raises(CheckpointError, match="never calibrated"):
        Aligner.from_pretrained(tmp_path / "c", prompt="aligner-repo", gate="balanced")
    data = tmp_path / "t.jsonl"
    data.write_text("".join(json.dumps({"question": t.question, "answer": t.answer, "correction": t.correction}) + "\n"
                            for t in triplets))  # fmt: skip
    (tmp_path / "c" / "aligner.json").write_text(
        json.dumps({k: v for k, v in json.loads((tmp_path / "c" / "aligner.json").read_text()).items() if k != "gate"})
    )
    assert calibrate(CalibrateConfig(aligner=tmp_path / "c", input=data)).to_json() == found.to_json()
    card_now = AlignerCard.load(tmp_path / "c")
    assert card_now is not None
    assert card_now.gate == found
    assert [a.name for a in card_now.lineage] == ["t.jsonl"]


@pytest.mark.parametrize(
    "value", [[], {}, {"thresholds": {"balanced": "x"}}, {"thresholds": {"balanced": math.nan}, "passed": {}}]
)
def test_a_damaged_calibration_is_refused(value) -> None:
    with pytest.raises(CheckpointError, match=r"here: 'gate' is no calibration"):
        GateCalibration.from_json(value, "here")


# -- from the command line and in an evaluation ---------------------------------------------------------------------


@pytest.fixture
def saved(parts, tmp_path: Path) -> Path:
    """A corrector whose gate lets everything through."""
    model, tokenizer, card = parts
    open_wide = GateCalibration(thresholds={"balanced": -1e9}, passed={"balanced": 1.0}, needed=99, faultless=9)
    with Aligner(model, tokenizer, AlignerCard(prompt=card.prompt, gate=open_wide)) as aligner:
        aligner.save_pretrained(tmp_path / "c")
    return tmp_path / "c"


def test_the_command_line_says_what_passed(saved: Path, tmp_path: Path, capsys) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"question": q, "answer": a, "gate": 7}) + "\n" for q, a in PAIRS))
    given = ["correct", "--aligner", str(saved), "--input", str(source), "--output", str(target)]
    assert main([*given, "--gate", "balanced"]) == 0
    assert "9 answers: 0 changed, 9 repeated unchanged (9 passed by the gate)" in capsys.readouterr().out
    for line, (_, answer) in zip(target.read_text().splitlines(), PAIRS, strict=True):
        row = json.loads(line)
        assert (row["correction"], row["kept_because"], row["input_gate"]) == (answer, None, 7)
        assert row["gate"]["passed"] is True
        assert row["gate"]["threshold"] == -1e9
    assert main([*given, "--overwrite", "--gate", "strict"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "gate=strict: 99 held-out rows that need a correction are too few, it takes 499" in said
    assert target.exists()


def test_aligner_calibrate_says_what_it_set(saved: Path, tmp_path: Path, capsys) -> None:
    data = tmp_path / "t.jsonl"
    rows = [{"question": f"q{i}", "answer": "a cat", "correction": "a cat" if i > 99 else "cats"} for i in range(120)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["calibrate", "--aligner", str(saved), "--input", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "held-out rows: 100 with a correction, 20 without" in shown
    assert "balanced: passes" in shown
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[50:]))
    assert main(["calibrate", "--aligner", str(saved), "--input", str(data)]) == 2
    assert "50 held-out rows need a correction" in capsys.readouterr().err
    assert main(["calibrate", "--aligner", str(tmp_path / "none"), "--input", str(data)]) == 2
    assert "no such directory" in capsys.readouterr().err


def test_a_published_checkpoint_is_calibrated_by_the_name_of_its_prompt(parts, tmp_path: Path, capsys) -> None:
    model, tokenizer, _ = parts
    card = AlignerCard(prompt=PromptFormat.preset("aligner-repo", tokenizer))
    with Aligner(model, tokenizer, card) as aligner:
        aligner.save_pretrained(tmp_path / "c")
    (tmp_path / "c" / "aligner.json").unlink()
    data = tmp_path / "t.jsonl"
    rows = [{"question": f"q{i}", "answer": "a cat", "correction": "a cat" if i > 99 else "cats"} for i in range(110)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["calibrate", "--aligner", str(tmp_path / "c"), "--input", str(data)]
    assert main(given) == 2
    assert "name it with prompt= (--prompt)" in capsys.readouterr().err
    assert main([*given, "--prompt", "aligner-repo"]) == 0
    saved_card = AlignerCard.load(tmp_path / "c")
    assert saved_card is not None
    assert saved_card.prompt == card.prompt
    assert saved_card.gate is not None
    # Its own format named once more is the same corrector, and keeps the gate; another is refused, and the card stands.
    with Aligner.from_pretrained(tmp_path / "c", prompt="aligner-repo", gate="balanced") as again:
        assert again.gate == saved_card.gate.gate("balanced")
    assert main([*given, "--prompt", "aligner-v1"]) == 2
    assert "trained with another prompt (aligner-repo); leave --prompt out" in capsys.readouterr().err
    assert AlignerCard.load(tmp_path / "c") == saved_card


def test_an_evaluation_refuses_a_gate_before_anything_is_spent(saved: Path) -> None:
    _check_card(CorrectorSpec(name="c", aligner=str(saved), gate="balanced"), "none")
    with pytest.raises(CheckpointError, match="gate=strict"):
        _check_card(CorrectorSpec(name="c", aligner=str(saved), gate="strict"), "none")
    with pytest.raises(ConfigError, match="says nothing of int8"):
        _check_card(CorrectorSpec(name="c", aligner=str(saved), gate="balanced"), "int8")
    with pytest.raises(ConfigError, match="'gate' goes with 'aligner'"):
        CorrectorSpec.from_dict({"name": "c", "method": "cai", "gate": "strict"}, where="x")
