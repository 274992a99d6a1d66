"""What Markdown makes of a text: its lines outside fences, and its fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"\s*+(?:(?:>|[-*+]\s|\d+[.)]\s)\s*+)*+(`{3,}+|~{3,}+)([^`]*)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Markdown:
    """A text apart: lines outside fences, the lines of every fenced block, those among them that would have opened it
    (so that its own end may be missing), and whether the last fence is open."""

    prose: list[str]
    blocks: list[list[str]]
    openers: list[str]
    open: bool


def read(text: str) -> Markdown:
    prose: list[str] = []
    blocks: list[list[str]] = []
    openers: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if not fence and mark:
            fence = mark[1]
            blocks.append([])
        elif mark and mark[1].startswith(fence) and not mark[2].strip():
            fence = ""
        elif fence:
            blocks[-1].append(line)
            if mark and mark[1].startswith(fence):
                openers.append(line)
        else:
            prose.append(line)
    return Markdown(prose=prose, blocks=blocks, openers=openers, open=bool(fence))


def squeezed(line: str) -> str:
    return "".join(line.split())
