"""Corrections that end too early: cut off inside a sentence, or blank."""

from __future__ import annotations

import regex

from aligner import edits
from aligner.correct.guards.markdown import read, squeezed
from aligner.types import FinishReason

# How a text ends is seen on its last characters; patterns that may backtrack look at no more than these.
_TAIL = 400

_VISIBLE = regex.compile(r"[^\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]")
_STOP = r"[\p{Sentence_Terminal}\u2025\u2026\u22ef]"
# What may follow the last stop: quotes, brackets, Markdown, a code fence, HTML tags, pictures.
_CLOSER = r"(?:[\s\p{Pe}\p{Pf}\p{Pi}\p{So}\p{Sk}\p{Cc}\p{Cf}\ufe0f\"'*_`~|\\]|</?\w{1,12}\s?/?>)"
_ENDED = regex.compile(rf"{_STOP}{_CLOSER}*+\Z")
# A stop with another sentence after it.
_SENTENCES = regex.compile(r"[.!?\u2026]\s+\w|(?![.!?])\p{Sentence_Terminal}\s*\w")
_UNSEEN_END = regex.compile(r"[\s\p{Cc}\p{Cf}\ufe0f\\]++\Z")
# The look back lets a sad face pass.
_HANGING = regex.compile(r"(?:[,،、，:：;；—–]|(?<![:;=]-?)\p{Ps}|\s[&+/\p{Pd}\p{Pi}\p{Sc}])\Z")
_INSIDE = regex.compile(r"[\p{L}\p{Mn}\p{Mc}\p{N}%]\Z")
_HEADING = regex.compile(r"\s{0,3}#{1,6}\s")
_ITEM = regex.compile(r"\s*(?:[-*+•◦‣–]|\(?(?:\d{1,3}|\p{L})\s?[.)、])\s*\S")
_BARE_MARKER = regex.compile(r"\s*(?:[-*+•◦‣–]|\(?\d{1,3}\s?[.)、]?)\s*\Z")
_CODE = regex.compile(r"[={}]|->|::|;\Z|\\[a-zA-Z]| \| ")
_ADDRESS = regex.compile(r"(?:\w+://|www\.|[#@]\w|\S+@|\S+\.\w+/)\S*\Z")
# In words: the longest bare answer, greeting and name under a letter, and verse.
_BARE, _SIGNATURE, _VERSE = 3, 6, 12


def is_cut(answer: str, correction: str, finish_reason: FinishReason) -> bool:
    """Whether the correction ended before it was finished.

    It did where the model ran out of room, and where the answer ended a sentence but the correction stops inside one.
    What needs no stop is whole: bare answers ("42"), addresses, code, signatures, and lines of a kind that the answer
    leaves without a stop too (list items, verses).
    """
    if finish_reason == "length":
        return True
    lines = _lines(correction)
    if correction == answer or not lines or not _ends_sentence(answer):
        return False
    last = lines[-1]
    if len(lines) > 1 and _BARE_MARKER.match(last) and _ITEM.match(lines[-2]):
        return True
    if _ends_sentence(last):
        return False
    end = _end(last)
    left_open = read(correction).open and not read(answer).open
    if _hangs(last):
        return left_open or not _CODE.search(end)
    return _INSIDE.search(end) is not None and (left_open or not _is_whole(lines, answer))


def is_emptied(answer: str, correction: str) -> bool:
    """Whether nothing visible is left of an answer that had something."""
    return not _VISIBLE.search(correction) and _VISIBLE.search(answer) is not None


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if _VISIBLE.search(line)]


def _end(text: str) -> str:
    return str(_UNSEEN_END.sub("", text.rstrip()[-_TAIL:]))


def _ends_sentence(text: str) -> bool:
    return _ENDED.search(text.rstrip()[-_TAIL:]) is not None


def _hangs(line: str) -> bool:
    """Whether a line ends on something that never ends a text, such as a comma, or a title and its colon."""
    return _HANGING.search(_end(line).rstrip("*_ ")) is not None


def _is_whole(lines: list[str], answer: str) -> bool:
    """Whether a text whose last line ends in a letter or a digit needs no stop there."""
    last, old = lines[-1], _lines(answer)
    words = _words(last)
    if len(lines) == len(words) == 1:
        return True
    if _HEADING.match(last) or last.count("(") > last.count(")"):
        return False
    if len(lines) > 1 and lines[-2].rstrip().endswith(",") and len(f"{lines[-2]} {last}".split()) <= _SIGNATURE:
        return True
    copied, stump = {squeezed(line) for line in old}, squeezed(last)
    if stump in copied:
        return True
    if any(line.startswith(stump) and line[len(stump)].isalnum() for line in copied):
        return False
    if _ADDRESS.search(end := _end(last)) or _CODE.search(end):
        return True
    if len(lines) == 1 and (len(words) <= _BARE or _is_whole_sentence(last, answer)):
        return True
    return (len(words) <= _VERSE or bool(_ITEM.match(last))) and _leaves_stops_out(last, old[:-1], lines[:-1])


def _is_whole_sentence(sentence: str, answer: str) -> bool:
    """Whether a lone sentence that lacks its stop has a fit last word: not one from which the answer goes on."""
    if _SENTENCES.search(sentence) or _SENTENCES.search(answer):
        return False
    last, old = _words(sentence)[-1], _words(answer)
    return last not in old or last == old[-1]


def _leaves_stops_out(last: str, *texts: list[str]) -> bool:
    """Whether lines of the kind of `last`, in the first text that has two or more, go without a stop half the time."""
    for lines in texts:
        alike = [line for line in lines if bool(_ITEM.match(line)) == bool(_ITEM.match(last))]
        stops = [_ends_sentence(line) for line in alike if not _HEADING.match(line) and not _hangs(line)]
        if len(stops) > 1:
            return 2 * sum(stops) <= len(stops)
    return False


def _words(text: str) -> list[str]:
    return [word for word in edits.words(text) if word.isalnum()]
