"""GuardPolicy: which guards keep the original answer, and which are only reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self, cast

from aligner.config import Config
from aligner.types import GuardName

Mode = Literal["enforce", "report", "off"]


class GuardPolicy(Config):
    """What each guard does when it fires: `enforce` keeps the original answer with the guard's name as the reason,
    `report` shows the correction with the name among its flags, `off` does not look.

    The order is the one in which they are asked: the first enforced guard that fires gives the reason.
    """

    cut: Mode = "enforce"
    """The correction hit its length limit or stops inside a sentence."""
    emptied: Mode = "enforce"
    """It came out blank."""
    broken_format: Mode = "enforce"
    """It is not the JSON that the request wants, or no JSON any more."""
    script_leak: Mode = "enforce"
    """It has characters of a script that neither question nor answer uses."""
    changed_language: Mode = "enforce"
    """It is in another language than the answer, unasked."""
    repeated: Mode = "enforce"
    """It says a sentence again that the answer says once, or not at all."""
    collapsed: Mode = "report"
    """Under a tenth of a long answer is left, and that is no refusal."""
    unbalanced_fence: Mode = "enforce"
    """A code fence is left open."""
    lost_code_fence: Mode = "enforce"
    """Code of the answer stands in it without its fence."""
    lost_table: Mode = "enforce"
    """Rows of a table of the answer stand in it outside any table."""
    lost_latex: Mode = "enforce"
    """Mathematics of the answer lost its borders."""
    lost_citation: Mode = "enforce"
    """A citation was dropped from words that stayed."""
    changed_numbers: Mode = "report"
    """A number of the answer was replaced by a new one."""
    changed_urls: Mode = "report"
    """A web address of the answer was replaced by a new one."""

    @classmethod
    def none(cls) -> Self:
        """No guard looks."""
        return cls.model_validate(dict.fromkeys(cls.model_fields, "off"))

    def guards(self, mode: Mode) -> Iterator[GuardName]:
        """Names of the guards that do this when they fire, in their order."""
        return (cast(GuardName, name) for name in type(self).model_fields if getattr(self, name) == mode)
