"""Job: one answer on its way through the step loop."""

from __future__ import annotations

from dataclasses import dataclass

from aligner.correct.guards import ResponseFormat, is_json
from aligner.correct.ticket import Request
from aligner.prompts import EncodedPrompt
from aligner.types import Chat


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An answer, its prompt, and what the loop is asked; `request` is None where it does not fit, or cannot be encoded
    (`error`)."""

    chat: Chat
    answer: str
    prompt: EncodedPrompt
    request: Request | None
    error: str | None = None
    wanted: ResponseFormat | None = None
    tight: bool = False
    """There is less room than a copy takes."""

    @property
    def whole(self) -> bool:
        """Whether nothing may be shown before all of it is written: what breaks it at the end could not be taken
        back."""
        return self.wanted is not None or self.tight or is_json(self.answer)
