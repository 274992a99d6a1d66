"""What a correction will probably say next, read off instead of computed: its answer, its prompt, earlier corrections.

A draft costs nothing to make and the model verifies it in one pass: a wrong one costs time and changes no token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# Where a draft was read: the whole answer before anything is written; the answer, while it is followed; its place found
# again by the last tokens, or by one token alone; behind as many tokens as were written since it was lost; what was
# read or written before, found by the last tokens, or by one; an earlier correction.
Source = Literal["first", "answer", "found", "near", "guess", "before", "token", "phrase"]

_LONGEST = 4  # tokens by which a place is found again, at most
_AHEAD = 24  # tokens ahead of where the answer was lost in which one token will do to find it again
_PHRASE = 3  # tokens by which a phrase is found
_SPAN = 16  # tokens drafted from anywhere but the answer, at most
_REPLACED = 4  # tokens that one token is replaced by, at most, for it to be replaced so again
_SURE = 2  # tokens followed in a row after which a place that was found again counts as the right one
_NONE: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, and where they were read."""

    tokens: tuple[int, ...]
    source: Source


NO_DRAFT = Draft((), "answer")


class Phrases:
    """What earlier corrections wrote that was not in their answers: the last `size` places, by the tokens before.

    One correction's stock phrases ("I cannot help with", "Perhaps you could") are the next one's.
    """

    def __init__(self, size: int = 1 << 16) -> None:
        self.size = size
        self._next: OrderedDict[tuple[int, ...], tuple[int, ...]] = OrderedDict()

    def learn(self, tokens: Sequence[int], places: Sequence[int]) -> None:
        """Keep what follows each of these places, where enough stands before it."""
        for place in places:
            if place >= _PHRASE:
                key = tuple(tokens[place - _PHRASE : place])
                self._next[key] = tuple(tokens[place : place + _SPAN])
                self._next.move_to_end(key)
        while len(self._next) > self.size:
            self._next.popitem(last=False)

    def clear(self) -> None:
        """Forget them all."""
        self._next.clear()

    def after(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """What came after these last tokens the last time; nothing where they are new."""
        return self._next.get(tuple(tokens[-_PHRASE:]), _NONE) if len(tokens) >= _PHRASE else _NONE


class _Before:
    """What was read and written so far, and where its last tokens stood the last time before."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self.match = 0
        """How many of the last tokens stand somewhere before."""
        self.place = 0
        """Behind them there."""
        self._ends: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> None:
        self.tokens.append(token)
        self.match = 0
        end = len(self.tokens)
        for length in range(1, min(_LONGEST, end) + 1):
            key = tuple(self.tokens[-length:])
            if (place := self._ends.get(key)) is not None:
                self.match, self.place = length, place
            self._ends[key] = end


@dataclass(slots=True)
class Drafter:
    """Follows one correction as it is written, and says what may come next.

    Args:
        answer: ids of the answer as the correction would repeat it, with the id that ends it.
        prompt: ids of the prompt.
        phrases: of earlier corrections; shared.
    """

    answer: tuple[int, ...]
    prompt: tuple[int, ...]
    phrases: Phrases
    written: list[int] = field(default_factory=list)
    edited: list[int] = field(default_factory=list)
    """Places in `written` at which the correction did not follow the answer."""
    _cursor: int | None = 0
    _followed: int = _SURE
    _match: int = _LONGEST
    # The last place that was surely right: in the answer, and in what is written.
    _anchor: tuple[int, int] = (0, 0)
    # A token of the answer that was replaced, and by what: it will be again.
    _replaced: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _ends: dict[tuple[int, ...], list[int]] | None = None
    _before: _Before | None = None

    def push(self, token: int) -> None:
        """Follow one more token."""
        self.written.append(token)
        if self._before is not None:
            self._before.push(token)
        if self._cursor is not None and self._cursor < len(self.answer) and self.answer[self._cursor] == token:
            self._cursor += 1
            self._followed += 1
            if self._followed == _SURE:
                self._learn_edit()
            if self._followed >= _SURE:
                self._anchor = (self._cursor, len(self.written))
                self._replaced.pop(token, None)
            return
        self.edited.append(len(self.written) - 1)
        self._followed = 0
        self._cursor = self._find()

    def drafts(self, most: int) -> list[Draft]:
        """What may come next, at most so many tokens of it, by every way there is to say."""
        if most < 1:
            return []
        if self._cursor is not None and (rest := self.answer[self._cursor : self._cursor + most]):
            if not self.written:
                return [Draft(rest, "first")]
            if self._followed >= _SURE:
                return [Draft(self._edited(rest, most), "answer")]
            source: Source = "found" if self._match > 1 else "near"
            return [Draft(self._edited(rest, most), source), *self._elsewhere(min(most, _SPAN))]
        return self._elsewhere(min(most, _SPAN))

    def finish(self) -> None:
        """The correction is written: keep its phrases for the next ones."""
        self.phrases.learn(self.written, self.edited)

    def _elsewhere(self, most: int) -> list[Draft]:
        found = []
        if phrase := self.phrases.after(self.written)[:most]:
            found.append(Draft(phrase, "phrase"))
        if self._before is None:
            self._before = _Before((*self.prompt, *self.written))
        before = self._before
        if before.match and (rest := tuple(before.tokens[before.place : before.place + most])):
            found.append(Draft(rest, "before" if before.match > 1 else "token"))
        if self._cursor is None:
            # As if as many tokens of the answer were replaced as were written since.
            behind = self._anchor[0] + len(self.written) - self._anchor[1]
            if rest := self.answer[behind : behind + most]:
                found.append(Draft(self._edited(rest, most), "guess"))
        return found

    def _learn_edit(self) -> None:
        """The place was found again for sure: was it one token that was replaced since the last sure place?"""
        place, behind = self._anchor
        back = _SURE + self._match  # the place was found by so many tokens, and followed by so many since
        if self._cursor is not None and self._cursor - back - 1 == place:
            new = tuple(self.written[behind : len(self.written) - back])
            if 0 < len(new) <= _REPLACED:
                self._replaced[self.answer[place]] = new

    def _edited(self, rest: tuple[int, ...], most: int) -> tuple[int, ...]:
        """What follows in the answer, with what was replaced before replaced again."""
        if self._replaced.keys().isdisjoint(rest):
            return rest
        return tuple(new for token in rest for new in self._replaced.get(token, (token,)))[:most]

    def _find(self) -> int | None:
        """Behind the longest run of last tokens that stands in the answer: the nearest ahead of the last sure place,
        so that repeated words do not lead astray; moved spans are found behind it too. One token alone will do only a
        little way ahead. None: nowhere."""
        if self._ends is None:
            self._ends = {}
            for length in range(1, _LONGEST + 1):
                for end in range(length, len(self.answer) + 1):
                    self._ends.setdefault(self.answer[end - length : end], []).append(end)
        sure, since = self._anchor[0], len(self.written) - self._anchor[1]
        for length in range(min(_LONGEST, len(self.written)), 0, -1):
            ends = self._ends.get(tuple(self.written[-length:]), [])
            if length == 1:
                ends = [end for end in ends if sure < end <= sure + since + _AHEAD]
            if ends:
                self._match = length
                ahead = [end for end in ends if end > sure]
                # As many tokens of the answer were replaced as were written, most likely.
                return ahead[0] if ahead else ends[-1]
        return None
