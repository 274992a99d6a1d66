"""Sentences: where a text may be cut, so that its pieces join to it, whole or while it is still being written."""

from __future__ import annotations

import regex

# A stop with what closes after it and white space behind, a stop of scripts that write no blanks, or a line's end.
_CUT = regex.compile(r"(?:[.!?…]+[\"'”’)\]*_]*\s+|[。！？]+[”’」』）]*\s*|\n\s*)", regex.V1)
# What looks like a sentence and is none: a list's number or letter, a title, an abbreviation.
_NONE = regex.compile(
    r"(?:^|\n|\s)(?:\(?(?:\d{1,3}|\p{L})|[Ee]\.g|[Ii]\.e|cf|vs|etc|approx|Mr|Mrs|Ms|Dr|Prof|St|No|Fig)[.)]\s+\Z",
    regex.V1,
)
_FENCE = regex.compile(r"^\s*(?:```|~~~)", regex.M)
_SHORTEST = 2  # letters and digits that a sentence has at least


class Splitter:
    """Cuts a text that comes in pieces into sentences, each with the white space behind it. A fenced block of code is
    never cut. The sentences do not depend on the pieces, and join to the text."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str, final: bool = False) -> list[str]:
        """The sentences that are whole now; with `final`, all that is left."""
        self._text += text
        found: list[str] = []
        start = at = 0
        while cut := _CUT.search(self._text, at):
            at = cut.end()
            if at == len(self._text):
                break  # more white space, or another stop, may follow
            if _is_sentence(self._text[start:at]):
                found.append(self._text[start:at])
                start = at
        self._text = self._text[start:]
        if final and self._text:
            found.append(self._text)
            self._text = ""
        return found


def split(text: str) -> list[str]:
    """The sentences of a whole text, each with the white space behind it."""
    return Splitter().push(text, final=True)


def parts(sentence: str) -> tuple[str, str]:
    """(the sentence itself, the white space behind it)."""
    core = sentence.rstrip()
    return core, sentence[len(core) :]


def _is_sentence(text: str) -> bool:
    if len(_FENCE.findall(text)) % 2:
        return False
    return sum(c.isalnum() for c in text) >= _SHORTEST and not _NONE.search(text)
