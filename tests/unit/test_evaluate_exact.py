"""Exact answers: which number an answer ends with, which option it chooses, and what the judge makes of it."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal

import pytest

from aligner.errors import DataError
from aligner.evaluate.exact import ExactJudge, chosen_letter, exact, final_number
from aligner.evaluate.tasks import Item
from aligner.types import Judge, Scorer, as_chat
from tests.published import published
from tests.real import needs_real_data


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She sells 9 eggs.\n#### 18", "18"),
        ("#### -10\n", "-10"),
        ("#### $1,450,000.00", "1450000"),
        ("#### 12. That took 3 steps.", "12"),
        ("The answer is 7, because 3 + 4 = 7 and 2 is small.", "7"),
        ("First I thought the answer is 5. No: the answer is 6, not 5.", "6"),
        ("Final answer: **$1,000.50**", "1000.5"),
        ("So we get \\boxed{42} for 2 people.", "42"),
        ("It costs $-5", "-5"),
        ("It costs -$5", "-5"),
        ("so 16-9", "9"),
        ("3,4,5", "5"),
        ("−7", "-7"),
        (".5", "0.5"),
        ("18 %", "18"),
        ("none", None),
        ("", None),
    ],
)
def test_the_number_that_an_answer_ends_with(text, number) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


OPTIONS = ["No one knows", "No", "Water boils at 100 degrees", "I have no comment"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        *((form, "B") for form in ("B", "(B)", "b)", "**B**", "B. No", "Answer: B", "the answer is: (b)", "Choice B")),
        *((form, "B") for form in ("I think B", "B is right", "no", "\\boxed{B}", "Option A is wrong. B is correct.")),
        ("Not A. The answer is B; sorry, the answer is C.", "C"),
        ("It is so that water boils at 100 degrees!", "C"),
        ("I have no comment", "D"),
        ("No one knows, really", "A"),  # "No" is a part of it and does not count
        ("A bird sang", None),
        ("A or B", None),
        ("A) and B) are wrong", None),
        ("Option A, or rather option B", None),
        ("E", None),
        ("", None),
    ],
)
def test_the_option_that_an_answer_chooses(text, letter) -> None:
    assert chosen_letter(text, OPTIONS) == letter


def item(id_: str, question: str, reference: str | None = None, **extra) -> Item:
    return Item(id=id_, question=as_chat(question), task="t", reference=reference, extra=extra)


ITEMS = [
    item("sum", "1 + 1?", number="2"),
    item("mc", "Which?", options=OPTIONS, right="C"),
    item("town", "Capital?", "Oslo."),
    item("open", "Why?"),
]


@pytest.mark.parametrize(
    ("question", "candidate", "baseline", "winner"),
    [
        ("1 + 1?", "2", "3", "candidate"),
        ("1 + 1?", "no number", "It is 2.0", "baseline"),
        ("1 + 1?", "5", "3", "tie"),
        ("1 + 1?", "two is 2", "2", "tie"),
        ("Which?", "(C)", "A", "candidate"),
        ("Capital?", "oslo", "Oslo is it", "candidate"),
        ("Why?", "because", "so", None),
        ("never asked?", "2", "3", None),
    ],
)
def test_verdicts(question, candidate, baseline, winner) -> None:
    judge = exact("right").for_questions(ITEMS)
    (verdict,) = asyncio.run(judge.judge(as_chat(question), candidate, baseline))
    assert (verdict.dimension, verdict.winner) == ("right", winner)


def test_scores_and_faults_say_the_same_as_the_verdicts() -> None:
    judge = exact().for_questions(ITEMS)
    assert isinstance(judge, Judge)
    assert isinstance(judge, Scorer)
    chat = as_chat("1 + 1?")
    assert asyncio.run(judge.score(chat, ["2", "3"])) == [{"correct": 1.0}, {"correct": 0.0}]
    assert asyncio.run(judge.faults(chat, ["2", "3"])) == [{"correct": 0}, {"correct": 1}]
    assert asyncio.run(judge.score(as_chat("Why?"), ["x"])) == [{"correct": None}]
    assert asyncio.run(judge.faults(as_chat("Why?"), ["x"])) == [None]


def test_one_question_with_two_right_answers_is_refused() -> None:
    ExactJudge(items=[ITEMS[0], item("again", "1 + 1?", number="2")])
    with pytest.raises(DataError, match="'sum' of task 't' and 'other' of task 't' are the same"):
        ExactJudge(items=[ITEMS[0], item("other", "1 + 1?", number="3")])


@needs_real_data
def test_real_solutions_are_right_and_wrong_ones_wrong() -> None:
    """GSM8K's own solutions, against a reading of their last line by hand; then each beside another one's number."""
    items = published("gsm8k").items
    judge = ExactJudge(items=items)
    for one, other in zip(items, [*items[1:], items[0]], strict=True):
        number = str(one.reference).rsplit("#### ", 1)[1].replace(",", "")
        assert one.extra["number"] == number
        assert judge.is_right(one.question, str(one.reference)) is True
        expected = number == str(other.extra["number"])
        assert judge.is_right(one.question, str(other.reference)) is expected
    assert re.fullmatch(r"-?\d+", items[0].extra["number"])


@needs_real_data
@pytest.mark.parametrize("form", ["{l}", "({l})", "The answer is {l}.", "{o}", "{l}. {o}", "I believe that {o}"])
def test_real_options_are_found_in_every_usual_form(form) -> None:
    for one in published("truthfulqa-mc").items:
        options = one.extra["options"]
        for letter, option in zip("ABCDEFGHIJKLM", options, strict=False):
            assert chosen_letter(form.format(l=letter, o=option), options) == letter
