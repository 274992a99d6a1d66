"""Sentences: where a text may be cut, so that its pieces join to it, whole or while it is still being written."""

from __future__ import annotations

from collections.abc import Iterator

import regex

# A stop with what closes after it and white space behind, a stop of scripts that write no blanks, or a line's end.
_STOPS, _CLOSE = ".!?…", "\"'”’)]*_"
_CUT = regex.compile(
    rf"(?:(?<![{_STOPS}])[{_STOPS}]++[{regex.escape(_CLOSE)}]*+\s+|[。！？]+[”’」』）]*\s*|\n\s*)", regex.V1
)
_END = regex.compile(r"[\s。！？]")  # in every cut, and behind what else may stand in it
# What looks like a sentence and is none: a list's number or letter, a title, an abbreviation.
_NONE = regex.compile(
    r"(?:^|\n|\s)(?:\(?(?:\d{1,3}|\p{L})|[Ee]\.g|[Ii]\.e|cf|vs|etc|approx|Mr|Mrs|Ms|Dr|Prof|St|No|Fig)[.)]\s+\Z",
    regex.V1,
)
_FENCE = regex.compile(r"\s*(?:```|~~~)")
_SHORTEST = 2  # letters and digits that a sentence has at least


class Splitter:
    """Cuts a text that comes in pieces into sentences, each with the white space behind it. A fenced block of code is
    never cut. The sentences do not depend on the pieces, and join to the text.

    Where a cut was refused stays so while the sentence goes on: nothing before that place is looked at again.
    """

    def __init__(self) -> None:
        self._text = ""  # what follows the last place where a cut was made or refused
        self._at = 0  # as far as there is no cut in it
        self._open = False  # a cut at its end, behind which more white space, or another stop, may follow
        self._begin()

    def push(self, text: str, final: bool = False) -> list[str]:
        """The sentences that are whole now; with `final`, all that is left."""
        # A cut at the text's end is whole when something else than blanks comes; there is no other without an end.
        more = bool(text.strip(" \t\n") if self._open else _END.search(text))
        self._text += text
        found = list(self._cut()) if more else []
        if final and (rest := "".join(self._refused) + self._text):
            found.append(rest)
            self._text, self._at, self._open = "", 0, False
            self._begin()
        return found

    def _begin(self) -> None:
        """A new sentence."""
        self._refused: list[str] = []  # the sentence up to the last refused cut
        self._count = 0  # its letters and digits
        self._fenced = False
        self._line = True  # what comes next begins a line

    def _cut(self) -> Iterator[str]:
        start, self._open = 0, False
        while cut := _CUT.search(self._text, self._at):
            self._open = cut.end() == len(self._text)
            if self._open:
                self._at = cut.start()
                break
            piece = self._text[start : cut.end()]
            start = self._at = cut.end()
            if self._ends(piece):
                yield "".join(self._refused)
                self._begin()
            else:
                self._line = "\n" in cut[0]
        else:
            # The stops at the end are looked at again: white space may follow them.
            tail = self._text[self._at :]
            bare = tail.rstrip(_CLOSE)
            self._at += len(bare.rstrip(_STOPS) if bare.endswith(tuple(_STOPS)) else tail)
        self._text, self._at = self._text[start:], self._at - start

    def _ends(self, piece: str) -> bool:
        """Whether the sentence ends behind this piece of it, which ends where it might."""
        before = self._refused[-1][-1] if self._refused else ""
        # A line's end is always a place for a cut, so only at a piece's begin a fence may stand.
        if self._line and _FENCE.match(piece):
            self._fenced = not self._fenced
        self._refused.append(piece)
        self._count += sum(c.isalnum() for c in piece)
        return not self._fenced and self._count >= _SHORTEST and not _NONE.search(before + piece)


def split(text: str) -> list[str]:
    """The sentences of a whole text, each with the white space behind it."""
    return Splitter().push(text, final=True)


def parts(sentence: str) -> tuple[str, str]:
    """(the sentence itself, the white space behind it)."""
    core = sentence.rstrip()
    return core, sentence[len(core) :]
