"""Citations of the answer that its correction dropped from words that it kept."""

from __future__ import annotations

import re
from collections import Counter

import regex

from aligner import edits
from aligner.correct.guards.markdown import read

# A name is capitalised, or in a script without capitals: "(born in 1878)" cites nobody.
_NAME = r"[\p{Lu}\p{Lt}\p{Lo}][\w.'’-]*+"
_YEAR = r"(?:1[5-9]|20)\d\d[a-z]?"
# [1], [2, 3], [4-6]; [^note]; [@key]; (Author, 2020), (Author et al., 2020a; Other and Author, 2021, p. 5). What begins
# a line labels that line and cites nothing in it.
_CITATION = regex.compile(
    r"(?<=[^\n])(?:\[\d{1,3}(?:\s?[,;–-]\s?\d{1,3})*+\](?![(:])|\[\^[^\s\]]{1,40}\](?!:)|\[@[^\]\n]{1,80}\]"
    r"|\((?:(?:see|also|cf\.|e\.g\.,?|von|van|den|der|de|di|da|del|la|le)\s)*+"
    rf"{_NAME}[^()\n]{{0,80}}?[,\s]{_YEAR}[^()\n]{{0,80}}\))"
)
_NOTE = re.compile(r"^\s{0,3}\[\^([^\s\]]{1,40})\]:", re.MULTILINE)
_CALL = re.compile(r"\[\^([^\s\]]{1,40})\](?!:)")
_CODE = re.compile(r"`[^`\n]*+`")
_CONTEXT = 4  # words before a citation by which the place is known again


def loses_citation(answer: str, correction: str) -> bool:
    """Whether words that a citation followed stand without one, or a footnote lost its text.

    A citation that went with its sentence is not lost, nor one that became another, nor one that stands elsewhere in
    the correction.
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
    _, now = _places(new)
    return any(now[place] > bare[place] for place, citation in cited if _squeezed(citation) not in kept)


def _prose(text: str) -> str:
    return _CODE.sub(" ", "\n".join(line.strip() for line in read(text).prose))


def _places(text: str) -> tuple[list[tuple[tuple[str, ...], str]], Counter[tuple[str, ...]]]:
    """The few words before each citation, with it; and how often as many words stand with none behind them."""
    words: list[str] = []
    found: list[tuple[int, str]] = []
    start = 0
    for citation in _CITATION.finditer(text):
        words += _words(text[start : citation.start()])
        found.append((len(words), citation[0]))
        start = citation.end()
    words += _words(text[start:])
    windows = {end: tuple(words[end - _CONTEXT : end]) for end in range(_CONTEXT, len(words) + 1)}
    ends = {end for end, _ in found}
    bare = Counter(window for end, window in windows.items() if end not in ends)
    return [(windows[end], citation) for end, citation in found if end in windows], bare


def _words(text: str) -> list[str]:
    return [word.lower() for word in edits.words(text) if word.isalnum()]


def _squeezed(citation: str) -> str:
    return "".join(citation.split()).lower()
