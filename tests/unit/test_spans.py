"""Faulty places of the pocket world's answers: by hand, and against the record of injected faults."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from aligner.errors import DataError
from aligner.evaluate.questions import AsksForQuestions
from aligner.evaluate.tasks import Item
from aligner.pocket.faults import FAULTS, text_of
from aligner.recipes.spans import LocatingOracle, fault_spans
from aligner.recipes.spans import oracle as locating
from aligner.types import FaultFinder, FaultLocator, Judge, Scorer, as_chat
from tests.pocket import drawn, faults, oracle


def places(question, answer: str) -> list[str]:
    return [answer[start:end] for start, end in fault_spans(oracle(), question, answer)]


def test_it_is_the_oracle_and_more() -> None:
    judge = locating()
    assert isinstance(judge, Judge)
    assert isinstance(judge, Scorer)
    assert isinstance(judge, FaultFinder)
    assert isinstance(judge, FaultLocator)
    assert judge.name == oracle().name
    question, answer, _ = drawn(1, "truth", "seen")
    chat, good = as_chat(question.text), text_of(answer)

    async def both(judge):
        return [await judge.judge(chat, good, ""), await judge.score(chat, [good]), await judge.faults(chat, [good])]

    assert asyncio.run(both(judge)) == asyncio.run(both(oracle()))
    bad = f"{good} I like turtles."
    found = asyncio.run(judge.fault_spans(chat, [good, bad]))
    assert found == [[], [(len(good) + 1, len(bad))]]
    assert asyncio.run(judge.fault_spans(as_chat("Who are you?"), ["I am."])) == [None]


def test_of_a_false_fact_only_the_value_is_faulty() -> None:
    for seed in range(200):
        question, answer, random = drawn(seed, "truth", "seen")
        claim = answer[0].claim
        assert claim is not None
        wrong = faults().wrong_value(claim, question, random)
        sentence = oracle().language.say(replace(claim, value=str(wrong)), answer[0].way)
        found = places(question, text_of((replace(answer[0], text=sentence), *answer[1:])))
        # Words that both values have stay out of it.
        assert found
        assert len(" ".join(found).split()) <= len(str(wrong).split()) + 1
        assert all(part.strip() in sentence for part in found)


def test_a_second_answer_to_one_thing_is_faulty_as_a_whole_whichever_comes_first() -> None:
    question, answer, random = drawn(5, "sums", "seen")
    claim, right = answer[0].claim, answer[0].text
    assert claim is not None
    wrong = oracle().language.say(replace(claim, value=str(faults().wrong_value(claim, question, random))), 0)
    assert places(question, f"{right} {wrong}") == [wrong]
    assert places(question, f"{wrong} {right}") == [wrong]
    assert places(question, f"{right} {right}") == [right]
    assert len(places(question, f"{wrong} {wrong}")) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_injected_faults_are_found_where_they_are(fault) -> None:
    met = 0
    for seed in range(400):
        question, answer, random = drawn(seed)
        assert places(question, text_of(answer)) == [], "a faultless answer has none"
        injected = faults().inject(fault, question, answer, random)
        if injected is None:
            continue
        met += 1
        text = text_of(injected)
        struck = [part.text for part in injected if part.fault is not None and part.text]
        found = places(question, text)
        assert bool(found) == bool(struck), "what is missing has no place"
        if fault not in ("repetition", "contradiction"):  # where either of two sentences may be the one too many
            assert all(any(place.strip() in sentence for sentence in struck) for place in found)
        if met == 40:
            break
    assert met > 10


def test_without_its_faulty_sentences_an_answer_lacks_things_and_has_no_other_fault() -> None:
    """What is left when whole faulty sentences go scores like an answer in which only something is missing."""
    for seed in range(150):
        question, answer, random = drawn(seed)
        for fault in ("padding", "repetition", "off_topic", "unsafe_step"):
            answer = faults().inject(fault, question, answer, random) or answer
        text = text_of(answer)
        for start, end in reversed(fault_spans(oracle(), question, text)):
            text = text[:start] + text[end:]
        scores, best = oracle().scores(question, text), oracle().best(question)
        assert scores["honest"] == 0
        assert all(scores[d] <= best[d] for d in best)
        said = [claim for claim in oracle().language.claims(text) if claim is not None]
        assert len(said) == len(set(said))
        assert set(said) <= set(question.required)


def test_the_name_can_be_chosen() -> None:
    assert LocatingOracle(oracle=oracle(), name="mine").name == "mine"


def item(id_: str, text: str) -> Item:
    return Item(id=id_, question=as_chat(text), task="truth", split="seen")


def test_questions_are_looked_through_before_the_first_is_asked() -> None:
    judge = locating()
    assert isinstance(judge, AsksForQuestions)
    good = [item(f"q{seed}", drawn(seed, "truth", "seen")[0].text) for seed in range(5)]
    assert judge.for_questions(good) is judge
    taught = item("t1", drawn(1, "truth", "train")[0].text)
    with pytest.raises(DataError, match=r"^task 'truth', question 't1': it belongs to the training split.*files$"):
        judge.for_questions([*good, taught])
    with pytest.raises(DataError, match=r"'w1': the oracle does not know it.*\(seed 0\) \(the first of 2 that"):
        judge.for_questions([*good, item("w1", "Who are you?"), taught])
