"""Sift: a text that comes in pieces is parted into reasoning, which is shown at once, and the answer, which is kept."""

from __future__ import annotations

from typing import Literal

from aligner.serve import wire

_OPEN, _CLOSE = "<think>", "</think>"


class Sifter:
    """The text of one answer, as it comes.

    A leading `<think>` block is known as such at once. Where a template opens the block itself, only `</think>` stands
    in the text: what comes before it looks like the answer until it is there, so it is kept, and told from the answer
    by `rest`.

    Args:
        whole: keep everything; what the text begins with is no answer, such as a prompt that is repeated.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._state: Literal["unknown", "thinking", "after", "answer"] = "answer" if whole else "unknown"
        self._waiting = ""  # text of which it is not certain yet whether it is reasoning
        self._kept: list[str] = []
        self._shown: list[str] = []

    @property
    def shown(self) -> str:
        """The reasoning that was parted off so far, to be shown at once."""
        return "".join(self._shown)

    def push(self, text: str) -> tuple[str, str]:
        """(more reasoning, more of the answer) that are known with the next piece."""
        if self._state == "answer":
            self._kept.append(text)
            return "", "" if self._whole else text
        self._waiting += text
        shown = answer = ""
        if self._state == "unknown":
            begin = self._waiting.lstrip()
            if begin.startswith(_OPEN):
                self._state = "thinking"
            elif not _OPEN.startswith(begin):
                self._state, answer = "answer", self._waiting
        if self._state == "thinking":
            before, tag, after = self._waiting.partition(_CLOSE)
            if tag:
                self._state, self._waiting, shown = "after", after, before + tag
            else:  # the tag itself may come in pieces
                cut = next((n for n in range(len(_CLOSE) - 1, 0, -1) if before.endswith(_CLOSE[:n])), 0)
                shown, self._waiting = before[: len(before) - cut], before[len(before) - cut :]
        if self._state == "after":
            answer = self._waiting.lstrip()
            shown += self._waiting[: len(self._waiting) - len(answer)]
            self._waiting = ""
            if answer:
                self._state = "answer"
        if answer:
            self._waiting = ""
            self._kept.append(answer)
        if shown:
            self._shown.append(shown)
        return shown, answer

    def rest(self) -> tuple[str, str]:
        """(reasoning that was not shown, the answer), once the text is over."""
        if self._state == "thinking":  # it was cut off
            return self._waiting, ""
        text = "".join(self._kept) + self._waiting
        return ("", text) if self._whole or self._shown else wire.split_reasoning(text)
