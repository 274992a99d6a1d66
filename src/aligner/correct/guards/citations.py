"""Citations of the answer that its correction dropped from words that it kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import regex

from aligner import edits
from aligner.correct.guards.markdown import read

# A name is capitalised, or in a script without capitals: "(born in 1878)" cites nobody.
_NAME = r"[\p{Lu}\p{Lt}\p{Lo}][\w.'’-]*+"
_YEAR = r"(?:1[5-9]|20)\d\d[a-z]?"
_SEASON = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?|[Ss]pring|[Ss]ummer|[Aa]utumn|[Ff]all|[Ww]inter|Easter|Christmas)\b\.?"
)
_DATE = rf"{_SEASON}(?:\s?[-–/]\s?{_SEASON})?(?:\s\d{{1,2}}(?:st|nd|rd|th)?,?)?\s(?:of\s)?{_YEAR}\b"
# [1], [2, 3], [4-6]; [^note]; [@key]; (Author, 2020), (Author et al., 2020a; Other and Author, 2021, p. 5), but not
# (March 1783). What begins a line labels that line and cites nothing in it.
_CITATION = regex.compile(
    r"(?<=[^\n])(?:\[\d{1,3}(?:\s?[,;–-]\s?\d{1,3})*+\](?![(:])|\[\^[^\s\]]{1,40}\](?!:)|\[@[^\]\n]{1,80}\]"
    r"|\((?:(?:see|also|cf\.|e\.g\.,?|von|van|den|der|de|di|da|del|la|le)\s)*+"
    rf"(?!{_DATE}){_NAME}[^()\n]{{0,80}}?[,\s]{_YEAR}[^()\n]{{0,80}}\))"
)
_NOTE = re.compile(r"^\s{0,3}\[\^([^\s\]]{1,40})\]:", re.MULTILINE)
_CALL = re.compile(r"\[\^([^\s\]]{1,40})\](?!:)")
_CODE = re.compile(r"`[^`\n]*+`")
_LISTED = re.compile(r"^\[\d[^\]\n]{0,20}\]\s+[^\W\d]|(?<![\w(\[,])\[[1-9]\d{0,2}\](?![(:])", re.MULTILINE)
_NUMBER = re.compile(r"\d+")
_OPENS = regex.compile(r"(?<=\w[^\w.!?;\n]{0,6})[(\[{`]")  # behind words of the same sentence
_YEARS = re.compile(rf"\b{_YEAR}\b")
_CONTEXT = 4  # words before a citation by which the place is known again


def loses_citation(answer: str, correction: str) -> bool:
    """Whether words that a citation followed stand without one, or a footnote lost its text.

    A citation that went with its sentence is not lost, nor one that became another, or code or something else in
    brackets, nor one that stands elsewhere in the correction or whose year does.
    """
    if "[" not in answer and "(" not in answer:
        return False
    old, new = _prose(answer), _prose(correction)
    if (set(_CALL.findall(new)) & set(_NOTE.findall(old))) - set(_NOTE.findall(new)):
        return True
    cited, bare = _places(old)
    if not cited:
        return False
    kept = {_squeezed(found) for found in _CITATION.findall(new)}
    _, now = _places(new, opens=_OPENS)
    gone = Counter(_YEARS.findall(old)) - Counter(_YEARS.findall(new))
    return any(
        now[place] > bare[place]
        for place, citation in cited
        if _squeezed(citation) not in kept
        and (citation[0] == "[" or not gone.keys().isdisjoint(_YEARS.findall(citation)))
    )


def _prose(text: str) -> str:
    return _CODE.sub(" ` ", "\n".join(line.strip() for line in read(text).prose))


def _places(
    text: str, opens: regex.Pattern[str] | None = None
) -> tuple[list[tuple[tuple[str, ...], str]], Counter[tuple[str, ...]]]:
    """The few words before each citation, with it; and how often as many words stand with none behind them, nor
    anything else that `opens` there."""
    words: list[str] = []
    found: list[tuple[int, str]] = []
    ends: set[int] = set()
    start = 0
    marks = [*_citations(text), *(opens.finditer(text) if opens is not None else ())]
    for mark in sorted(marks, key=lambda mark: mark.start()):
        if mark.start() < start:
            continue  # within a citation
        words += _words(text[start : mark.start()])
        ends.add(len(words))
        if len(mark[0]) > 1:
            found.append((len(words), mark[0]))
        start = mark.end()
    words += _words(text[start:])
    windows = {end: tuple(words[end - _CONTEXT : end]) for end in range(_CONTEXT, len(words) + 1)}
    bare = Counter(window for end, window in windows.items() if end not in ends)
    return [(windows[end], citation) for end, citation in found if end in windows], bare


def _citations(text: str) -> Iterator[regex.Match[str]]:
    """Citations, and not lists and intervals such as [0, 1]: several numbers cite where they ascend from 1 or more, and
    the text has a single one, too, or a list of sources."""
    listed = _LISTED.search(text) is not None
    for found in _CITATION.finditer(text):
        numbers = [int(number) for number in _NUMBER.findall(found[0])] if found[0][1].isdigit() else [1]
        if numbers == sorted({*numbers} - {0}) and (listed or len(numbers) == 1):
            yield found


def _words(text: str) -> list[str]:
    return [word.lower() for word in edits.words(text) if word.isalnum()]


def _squeezed(citation: str) -> str:
    return "".join(citation.split()).lower()
