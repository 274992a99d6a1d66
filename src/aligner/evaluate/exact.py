"""ExactJudge: right or wrong by comparing with the known answer, for numbers, options and short texts. No model."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from aligner.errors import DataError
from aligner.types import Chat, Verdict

if TYPE_CHECKING:
    from aligner.evaluate.tasks import Item

# A minus belongs to a number unless it stands between two: 16-9 has none. Thousands are commas before three digits.
_NUMBER = re.compile(r"((?<![\w).])[-−])?(?:[$€£]\s?([-−])?)?(?:(\d{1,3}(?:,\d{3})+(?!\d)|\d+)(\.\d+)?|(?<!\d)(\.\d+))")
# Where an answer says that it comes now; what follows the last such place counts. The first form is GSM8K's own.
_STATED = (
    re.compile(r"####"),
    re.compile(r"\\boxed\{"),
    re.compile(r"\b(?:final )?answer\b(?: is| are|:|\s*=)[\s:*_$({]*", re.IGNORECASE),
)
_MARKS = r"[\s:*_`\"'({\[]*"
# A small letter counts in brackets or at the end; "a" is an article elsewhere.
_LETTER = _MARKS + r"(?:([A-Z])(?![\w'’])|(?<=[(\[])([a-z])(?=[)\]])|([a-z])(?=[\s.)\]]*$))"
_STATED_LETTER = (
    re.compile(r"\\boxed\{" + _LETTER),
    re.compile(r"(?i:\banswer\b(?:\s+is|\s*[:=])(?:\s+(?:option|choice|letter))?)" + _LETTER),
)
# Said of several options these name none.
_NAMED_LETTER = (
    re.compile(r"(?<!\w)([A-Z])[\s*_`\"')\]]+is\s+(?:the\s+)?(?i:right|correct|true|best)()()"),
    re.compile(r"\b(?i:(?:option|choice|letter)(?:\s+is|\s*:)?|think|say|choose|pick|select|go with)" + _LETTER),
)
_LEADING_LETTER = re.compile(
    r"[\s*_`\"'({\[]*([A-Za-z])[\s*_`\"']*(?:[).:\]},]|[-–—]\s|$)(?!\s*(?:,|and|or|&|/)?\s*[({\[*]*[A-Z][\s).:\]},*])"
)
_NOT_WORDS = re.compile(r"[^\w]+")


def final_number(text: str) -> Decimal | None:
    """The number that an answer ends with: the first after its last '####', \\boxed{ or "answer is", else the last one.

    Signs of money, per cent and commas between thousands are no part of it; 3.0 equals 3. None where there is none.
    """
    for stated in _STATED:
        ends = [match.end() for match in stated.finditer(text)]
        if ends and (found := _NUMBER.search(text, ends[-1])):
            return _decimal(found)
    numbers = [_decimal(found) for found in _NUMBER.finditer(text)]
    return numbers[-1] if numbers else None


def chosen_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer chooses; None where it chooses none, or more than one.

    Looked for in this order: the answer is an option's text; a letter that is stated ("the answer is B", the last such
    place counts); one that is named ("B is right", "option B"); one at the start; the text of one option, and of no
    other, somewhere in the answer.
    """
    letters = string.ascii_uppercase[: len(options)]
    plain = _words(text)
    texts = [_words(option) for option in options]
    same = [letter for letter, option in zip(letters, texts, strict=True) if option == plain]
    if len(same) == 1:
        return same[0]
    for stated in _STATED_LETTER:
        if found := _letters(stated, text, letters):
            return found[-1]
    for named in _NAMED_LETTER:
        if len(set(found := _letters(named, text, letters))) == 1:
            return found[0]
    leading = _LEADING_LETTER.match(text)
    if leading and leading[1].upper() in letters:
        return str(leading[1].upper())
    held = [option for option in texts if option and f" {option} " in f" {plain} "]
    # An option may be a part of another: "no" of "no one".
    held = [option for option in held if not any(option != other and option in other for other in held)]
    return letters[texts.index(held[0])] if len(held) == 1 else None


class ExactJudge:
    """Right or wrong in one dimension; the right answer wins, and two right or two wrong ones are a tie.

    What is right stands in the question's row: `number` (the answer's final number is compared), `options` with the
    letter `right` (its letter), or `reference` (its words, capitals and punctuation apart). An answer in which nothing
    can be found is wrong; a question with none of the three is unscored.
    """

    name = "exact"

    def __init__(self, dimension: str = "correct", items: Sequence[Item] = ()) -> None:
        self.dimension = dimension
        self._items: dict[Chat, Item] = {}
        for item in items:
            other = self._items.setdefault(item.question, item)
            if _key(other) != _key(item):
                raise DataError(
                    f"the questions {other.id!r} of task '{other.task}' and {item.id!r} of task '{item.task}' are the "
                    "same and their right answers are not; leave one out"
                )

    def for_questions(self, items: Sequence[Item]) -> ExactJudge:
        """A judge of the same kind that knows what is right for these questions.

        Raises:
            DataError: two equal questions have different right answers.
        """
        return ExactJudge(self.dimension, items)

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        after, before = self.is_right(question, candidate), self.is_right(question, baseline)
        winner: Literal["candidate", "baseline", "tie"] | None = None
        if after is not None and before is not None:
            winner = "tie" if after == before else "candidate" if after else "baseline"
        return [Verdict(dimension=self.dimension, winner=winner)]

    async def faults(self, question: Chat, answers: Sequence[str]) -> list[dict[str, int] | None]:
        """One fault for a wrong answer: the fault rate is the share of wrong answers."""
        found = [self.is_right(question, answer) for answer in answers]
        return [None if right is None else {self.dimension: int(not right)} for right in found]

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        """1 for a right answer, 0 for a wrong one."""
        found = [self.is_right(question, answer) for answer in answers]
        return [{self.dimension: None if right is None else float(right)} for right in found]

    def is_right(self, question: Chat, answer: str) -> bool | None:
        """Whether an answer is right; None where it is not known what is."""
        item = self._items.get(question)
        if item is None:
            return None
        number, options, right = (item.extra.get(name) for name in ("number", "options", "right"))
        if number is not None:
            wanted = final_number(str(number))
            return None if wanted is None else final_number(answer) == wanted
        if isinstance(options, Sequence) and isinstance(right, str):
            return chosen_letter(answer, [str(option) for option in options]) == right
        return None if item.reference is None else _words(answer) == _words(item.reference)


def exact(dimension: str = "correct") -> ExactJudge:
    """For a configuration: `judge: {call: "aligner.evaluate.exact:exact"}`."""
    return ExactJudge(dimension)


def _key(item: Item) -> tuple[Any, ...]:
    fields: Mapping[str, Any] = item.extra
    return (str(fields.get("number")), str(fields.get("options")), fields.get("right"), item.reference)


def _decimal(found: re.Match[str]) -> Decimal:
    before, inner, whole, part, bare = found.groups()
    value = Decimal((whole or "0").replace(",", "") + (part or bare or ""))
    return -value if before or inner else value


def _letters(pattern: re.Pattern[str], text: str, letters: str) -> list[str]:
    found = ("".join(groups).upper() for groups in pattern.findall(text))
    return [letter for letter in found if letter in letters]


def _words(text: str) -> str:
    return _NOT_WORDS.sub(" ", text.casefold()).strip()
