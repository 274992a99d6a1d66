"""Mathematics of the answer that would no longer be set as such."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from aligner.correct.guards.markdown import read

_CODE = re.compile(r"`[^`\n]*+`")
_BEGIN_END = re.compile(r"\\(begin|end)\{([^{}\n]{1,40})\}")
# Borders of mathematics: display, inline, environments. `\\[2pt]` is a line break and opens nothing.
_MARK = re.compile(r"\\\\|\$\$|\\[\[\]()]|\\(?:begin|end)\{[^{}\n]{1,40}\}|\n\s*\n")
# One dollar opens before and closes behind something visible and before no digit: "$5 and $10" is money.
_INLINE = re.compile(r"(?<![\\$])\$(?![\s$])[^$\n]*+(?<![\s\\])\$(?![\d$])")
_RAW = re.compile(r"\\[a-zA-Z]{2,}+|[\^_]\{|\w\^[\w(+-]")
_PAIRS = {"\\[": "\\]", "\\(": "\\)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """A text's mathematics: pieces that are set, borders that have no other side, and marks of TeX outside."""

    pieces: int
    torn: int
    raw: int


def loses_latex(answer: str, correction: str) -> bool:
    """Whether mathematics lost its borders: one is left without its other side, or there is less of it and marks of TeX
    stand outside.

    Only what the answer had in order can be lost. Formulas that were taken out altogether are not lost.
    """
    if "$" not in answer and "\\" not in answer:
        return False
    old = _read(answer)
    if not old.pieces:
        return False
    new = _read(correction)
    return new.torn > old.torn or (new.pieces < old.pieces and new.raw > 0 and old.raw == 0)


def _read(text: str) -> _Set:
    prose = _CODE.sub(" ", "\n".join(read(text).prose))
    outside: list[str] = []
    pieces = torn = 0
    start, closing = 0, ""
    for mark in _MARK.finditer(prose):
        border = mark[0]
        if border == "\\\\":
            continue
        blank = border.isspace()
        if not closing:
            if blank:
                continue
            closing = _closing(border)
            if not closing:
                torn += 1
                continue
            outside.append(prose[start : mark.start()])
            start = mark.start()
        elif border == closing:
            pieces += 1
            start, closing = mark.end(), ""
        elif blank and closing in ("$$", "\\)"):
            torn += 1  # neither runs over a paragraph's end
            outside.append(prose[start : mark.start()])
            start, closing = mark.end(), ""
    torn += bool(closing)
    outside.append(prose[start:])
    torn += _unpaired(prose)
    rest = " ".join(outside)
    pieces += len(_INLINE.findall(rest))
    return _Set(pieces=pieces, torn=torn, raw=len(_RAW.findall(_INLINE.sub(" ", rest))))


def _closing(border: str) -> str:
    if border.startswith("\\begin"):
        return border.replace("\\begin", "\\end", 1)
    return "$$" if border == "$$" else _PAIRS.get(border, "")


def _unpaired(prose: str) -> int:
    """Environments inside mathematics that begin and do not end, or end and did not begin."""
    begun = Counter(name if kind == "begin" else f"/{name}" for kind, name in _BEGIN_END.findall(prose))
    names = {name.lstrip("/") for name in begun}
    return sum(begun[name] != begun[f"/{name}"] for name in names)
