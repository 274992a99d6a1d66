"""The pocket suite's promises: what is written is read back, faults lower one dimension, nobody fools the oracle."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aligner.pocket.attackers import ATTACKERS
from aligner.pocket.faults import DIMENSION, FAULTS, faultless, text_of
from aligner.pocket.oracle import ORACLE_DIMENSIONS
from aligner.pocket.tasks import TASKS
from aligner.pocket.teacher import ErrorRates, Teacher
from tests.pocket import drawn, faults, oracle, slips

seeds = st.integers(0, 2**32)
many = settings(max_examples=150, deadline=None)


@given(seeds, st.sampled_from(TASKS))
@many
def test_every_claim_is_read_back_in_every_way_of_saying_it(seed, task) -> None:
    question, _, _ = drawn(seed, task)
    language = oracle().language
    for claim in question.required:
        said = [language.say(claim, way) for way in range(language.ways(claim))]
        assert len(set(said)) >= 3 if claim.kind == "sum" else len(set(said)) >= 6
        assert {language.read(sentence) for sentence in said} == {claim}


@given(seeds, st.sampled_from(TASKS))
@many
def test_the_oracle_accepts_every_reference(seed, task) -> None:
    question, answer, _ = drawn(seed, task)
    assert oracle().scores(question, text_of(answer)) == oracle().best(question)


@given(seeds, st.sampled_from(FAULTS))
@many
def test_a_fault_lowers_its_dimension_and_no_other(seed, fault) -> None:
    question, answer, random = drawn(seed)
    faulty = faults().inject(fault, question, answer, random)
    assume(faulty is not None)
    scores, best = oracle().scores(question, text_of(faulty)), oracle().best(question)
    lower = {d for d in ORACLE_DIMENSIONS if scores[d] < best[d]}
    assert lower == {DIMENSION[fault]}, text_of(faulty)
    assert all(scores[d] <= best[d] for d in ORACLE_DIMENSIONS)


@given(seeds)
@many
def test_a_slip_costs_a_claim_and_a_teacher_that_does_not_err_brings_it_back(seed) -> None:
    question, answer, random = drawn(seed)
    slipped = slips().inject(question, answer, random)
    assume(slipped is not None)
    scores, best = oracle().scores(question, text_of(slipped)), oracle().best(question)
    assert scores != best, text_of(slipped)
    assert all(scores[d] <= best[d] for d in ORACLE_DIMENSIONS)
    assert sum(part.fault is not None for part in slipped) == 1
    assert Teacher(oracle().language, ErrorRates(miss=0, over_edit=0, err=0)).correct(
        question, slipped, random
    ) == text_of(answer)


def test_slips_are_of_all_kinds_and_mention_nothing_that_is_held_out() -> None:
    """Of training questions, as triplets have them."""
    random, language = Random(5), oracle().language
    found = Counter()
    for _ in range(600):
        question = oracle().tasks.draw(random.choice([t for t in TASKS if t != "sums"]), random, "train")
        answer = faultless(question, language, random)
        slipped = slips().inject(question, answer, random)
        part = next(p for p in slipped if p.fault is not None)
        found[part.fault] += 1
        assert part.repaired in text_of(answer)
        assert not any(name in part.text for name in language.world.held_out)
        if part.repaired != text_of(answer):  # one sentence, not the whole answer to another training question
            joined = _joined(language.read(part.text), question)
            assert joined is None or not language.world.held_apart(*joined)
    assert set(found) == {"repetition", "off_topic", "wrong_fact", "garble"}
    assert min(found.values()) > 40


def _joined(claim, question) -> tuple[str, ...] | None:
    """The pair that a slip's own claim names."""
    if claim is None or claim in question.required:
        return None
    match claim.kind:
        case "fact":
            return claim.about
        case "feeling":
            return (question.required[1].value, claim.value)
        case "step":
            return (claim.about[0],)
        case "decline":
            return (next(a.benign for a in oracle().world.acts if a.harmful == claim.about[0]),)
        case "instead":
            return (claim.value,)
        case _:
            return None


@given(seeds)
@many
def test_talking_to_the_corrector_lowers_helpfulness(seed) -> None:
    question, answer, random = drawn(seed)
    text = text_of(faults().address(answer, random))
    assert oracle().scores(question, text)["helpful"] == oracle().best(question)["helpful"] - 1


@given(seeds, st.sampled_from(sorted(ATTACKERS)))
@many
def test_no_attacker_beats_a_faultless_answer(seed, name) -> None:
    question, answer, random = drawn(seed)
    others = [text_of(drawn(seed + i)[1]) for i in (1, 2, 3)]
    attack = ATTACKERS[name](question, text_of(answer), others, oracle().language, random)
    scores, best = oracle().scores(question, attack), oracle().best(question)
    assert all(scores[d] <= best[d] for d in ORACLE_DIMENSIONS)


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_attackers_lose_on_the_whole(name) -> None:
    """Not merely ties: over many questions every attacker is worse than the answer it attacks."""
    lost = 0
    for seed in range(200):
        question, answer, random = drawn(seed)
        others = [text_of(drawn(seed + i)[1]) for i in (1, 2, 3)]
        attack = ATTACKERS[name](question, text_of(answer), others, oracle().language, random)
        lost += oracle().scores(question, attack) != oracle().best(question)
    assert lost > 150


@given(seeds)
@many
def test_a_teacher_that_does_not_err_leaves_faultless_answers_and_repairs_the_others(seed) -> None:
    question, answer, random = drawn(seed)
    teacher = Teacher(oracle().language, ErrorRates(miss=0, over_edit=0, err=0))
    assert teacher.correct(question, answer, random) == text_of(answer)
    faulty = answer
    for fault in random.sample(FAULTS, 3):
        faulty = faults().inject(fault, question, faulty, random) or faulty
    assert teacher.correct(question, faulty, random) == text_of(answer)


@given(seeds)
@many
def test_the_teacher_repairs_what_it_only_reads(seed) -> None:
    """Without a record of the faults: a model's answer, of which only the text is known."""
    question, answer, random = drawn(seed)
    teacher = Teacher(oracle().language, ErrorRates(miss=0, over_edit=0, err=0))
    assert teacher.correct(question, teacher.read(question, text_of(answer)), random) == text_of(answer)
    faulty = answer
    for fault in random.sample(FAULTS, 2):
        faulty = faults().inject(fault, question, faulty, random) or faulty
    corrected = teacher.correct(question, teacher.read(question, text_of(faulty)), random)
    assert oracle().scores(question, corrected) == oracle().best(question), (text_of(faulty), corrected)


def test_an_over_edit_of_a_corrected_claim_says_the_corrected_one() -> None:
    random, language = Random(4), oracle().language
    teacher = Teacher(language, ErrorRates(miss=0, over_edit=1, err=0))
    for _ in range(300):
        question = oracle().tasks.draw(random.choice(["truth", "summary"]), random, "train")
        faulty = faults().inject("wrong_fact", question, faultless(question, language, random), random)
        corrected = teacher.correct(question, teacher.read(question, text_of(faulty)), random)
        assert oracle().scores(question, corrected) == oracle().best(question), (text_of(faulty), corrected)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_teacher_misses_a_fault_as_often_as_it_says(fault) -> None:
    random, language, n, missed = Random(5), oracle().language, 2000, 0
    teacher = Teacher(language, ErrorRates(miss=0.05, over_edit=0, err=0))
    for _ in range(n):
        faulty = None
        while faulty is None:
            question = oracle().tasks.draw(random.choice([t for t in TASKS if t != "sums"]), random, "train")
            faulty = faults().inject(fault, question, faultless(question, language, random), random)
        corrected = teacher.correct(question, faulty, random)
        assert corrected == text_of(faulty) or oracle().scores(question, corrected) == oracle().best(question)
        missed += corrected == text_of(faulty)
    assert abs(missed / n - 0.05) < 3.5 * (0.05 * 0.95 / n) ** 0.5


def test_the_teacher_errs_as_often_as_it_says() -> None:
    """On faultless answers: over-edits that keep every claim, and errors, within three standard errors."""
    random, teacher, language = Random(3), Teacher(oracle().language), oracle().language
    n, over, wrong = 4000, 0, 0
    for _ in range(n):
        question = oracle().tasks.draw(random.choice(TASKS), random, "train")
        answer = faultless(question, language, random)
        text = teacher.correct(question, answer, random)
        bad = oracle().scores(question, text) != oracle().best(question)
        wrong += bad
        over += text != text_of(answer) and not bad
    assert wrong / n <= 0.02 + 3 * (0.02 * 0.98 / n) ** 0.5
    assert over / n <= 0.05 + 3 * (0.05 * 0.95 / n) ** 0.5
    assert over / n > 0.03
    assert wrong / n > 0.01
