"""Citations of the answer that its correction dropped from words that it kept."""

from __future__ import annotations

import re

from aligner import edits
from aligner.correct.guards.markdown import read

_NAME = r"[^\W\d_][\w.'’-]*+"
# [1], [2, 3], [4-6]; [^note]; [@key]; (Author, 2020), (Author et al., 2020a; Other and Author, 2021, p. 5).
_YEAR = r"(?:1[5-9]|20)\d\d[a-z]?"
_CITATION = re.compile(
    r"\[\d{1,3}(?:\s?[,;–-]\s?\d{1,3})*+\](?![(:])|\[\^[^\s\]]{1,40}\](?!:)|\[@[^\]\n]{1,80}\]"
    rf"|\((?:(?:see|cf\.|e\.g\.,?)\s)?{_NAME}[^()\n]{{0,80}}?[,\s]{_YEAR}[^()\n]{{0,80}}\)",
    re.IGNORECASE,
)
_NOTE = re.compile(r"^\s{0,3}\[\^([^\s\]]{1,40})\]:", re.MULTILINE)
_CALL = re.compile(r"\[\^([^\s\]]{1,40})\](?!:)")
_CODE = re.compile(r"`[^`\n]*+`")
_CONTEXT = 4  # words before a citation by which the place is known again


def loses_citation(answer: str, correction: str) -> bool:
    """Whether the words before a citation still stand and the citation does not, or a footnote lost its text.

    A citation that went with its sentence is not lost, nor one that stands elsewhere in the correction.
    """
    if "[" not in answer and "(" not in answer:
        return False
    old, new = _prose(answer), _prose(correction)
    if (set(_CALL.findall(new)) & set(_NOTE.findall(old))) - set(_NOTE.findall(new)):
        return True
    kept = {_squeezed(found) for found in _CITATION.findall(new)}
    places: set[tuple[str, ...]] | None = None
    before: list[str] = []
    start = 0
    for found in _CITATION.finditer(old):
        before = (before + _words(old[start : found.start()]))[-_CONTEXT:]
        start = found.end()
        if _squeezed(found[0]) in kept or len(before) < _CONTEXT:
            continue
        if places is None:
            words = _words(_CITATION.sub(" ", new))
            places = set(zip(*(words[i:] for i in range(_CONTEXT)), strict=False))
        if tuple(before) in places:
            return True
    return False


def _prose(text: str) -> str:
    return _CODE.sub(" ", "\n".join(read(text).prose))


def _words(text: str) -> list[str]:
    return [word.lower() for word in edits.words(text) if word.isalnum()]


def _squeezed(citation: str) -> str:
    return "".join(citation.split()).lower()
