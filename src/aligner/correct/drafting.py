"""What a correction will probably say next, read off instead of computed: its answer, its prompt, earlier corrections.

A draft costs nothing to make and the model verifies it in one pass: a wrong one costs time and changes no token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# Where a draft was read: the whole answer before anything is written; the answer, while it is followed; its place found
# again by the last tokens; behind as many tokens as were written since it was lost; the prompt; an earlier correction.
Source = Literal["first", "answer", "found", "guess", "prompt", "phrase"]

_LONGEST = 4  # tokens by which a place is found again, at most
_AHEAD = 24  # tokens ahead of where the answer was lost in which one token will do to find it again
_PHRASE = 3  # tokens by which a phrase is found
_PHRASE_LENGTH = 16
_NONE: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, and where they were read."""

    tokens: tuple[int, ...] = ()
    source: Source = "answer"


NO_DRAFT = Draft()


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
                self._next[key] = tuple(tokens[place : place + _PHRASE_LENGTH])
                self._next.move_to_end(key)
        while len(self._next) > self.size:
            self._next.popitem(last=False)

    def after(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """What came after these last tokens the last time; nothing where they are new."""
        return self._next.get(tuple(tokens[-_PHRASE:]), _NONE) if len(tokens) >= _PHRASE else _NONE


class _Places:
    """Where each run of up to `_LONGEST` tokens ends in a sequence."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._ends: dict[tuple[int, ...], list[int]] = {}
        for length in range(1, _LONGEST + 1):
            for end in range(length, len(tokens) + 1):
                self._ends.setdefault(tuple(tokens[end - length : end]), []).append(end)

    def of(self, tokens: tuple[int, ...]) -> list[int]:
        return self._ends.get(tokens, [])


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
    _cursor: int = 0
    _lost_at: int | None = None
    _found: bool = False
    _answer_places: _Places | None = None
    _prompt_places: _Places | None = None

    def push(self, token: int) -> None:
        """Follow one more token."""
        self.written.append(token)
        if self._lost_at is None and self._cursor < len(self.answer) and self.answer[self._cursor] == token:
            self._cursor += 1
            self._found = False
            return
        self.edited.append(len(self.written) - 1)
        if self._lost_at is None:
            self._lost_at = len(self.written) - 1
        self._find()

    def draft(self, most: int) -> Draft:
        """At most so many tokens that may come next."""
        if most < 1:
            return NO_DRAFT
        if self._lost_at is None and (rest := self.answer[self._cursor : self._cursor + most]):
            source: Source = "first" if not self.written else "found" if self._found else "answer"
            return Draft(rest, source)
        if phrase := self.phrases.after(self.written)[:most]:
            return Draft(phrase, "phrase")
        if found := self._in_prompt()[:most]:
            return Draft(found, "prompt")
        if self._lost_at is not None:
            # As if as many tokens of the answer were replaced as were written since.
            behind = self._cursor + len(self.written) - self._lost_at
            if rest := self.answer[behind : behind + most]:
                return Draft(rest, "guess")
        return NO_DRAFT

    def finish(self) -> None:
        """The correction is written: keep its phrases for the next ones."""
        self.phrases.learn(self.written, self.edited)

    def _find(self) -> None:
        """Take up the answer again behind the longest run of last tokens that stands in it, the nearest one ahead of
        where it was lost; moved spans are found behind that too. One token will do only a little way ahead."""
        if self._answer_places is None:
            self._answer_places = _Places(self.answer)
        since = len(self.written) - (self._lost_at or 0)
        for length in range(min(_LONGEST, len(self.written)), 0, -1):
            ends = self._answer_places.of(tuple(self.written[-length:]))
            if length == 1:
                ends = [end for end in ends if self._cursor < end <= self._cursor + since + _AHEAD]
            if ends:
                ahead = [end for end in ends if end > self._cursor]
                self._cursor = ahead[0] if ahead else ends[-1]
                self._lost_at, self._found = None, True
                return

    def _in_prompt(self) -> tuple[int, ...]:
        """What follows the last tokens in the prompt, the last time they stand there; two of them at least."""
        if self._prompt_places is None:
            self._prompt_places = _Places(self.prompt)
        for length in range(min(_LONGEST, len(self.written)), 1, -1):
            ends = self._prompt_places.of(tuple(self.written[-length:]))
            if ends and (rest := self.prompt[ends[-1] : ends[-1] + _PHRASE_LENGTH]):
                return rest
        return _NONE
