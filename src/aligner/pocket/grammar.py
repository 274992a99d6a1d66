"""Sentence patterns with slots that can be written and read back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_SLOT = re.compile(r"\{(\w+)\}")
_BORDER = re.compile(r"(?<=[.!?])\s+")


def capitalised(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]


def both_cases(text: str) -> tuple[str, ...]:
    """The text as it stands, and with its first letter small: what a capitalised phrase may have been."""
    lowered = text[:1].lower() + text[1:]
    return (text,) if lowered == text else (lowered, text)


def sentences(text: str) -> list[str]:
    """A text cut after each full stop, question mark and exclamation mark that white space follows."""
    return [part for part in _BORDER.split(text.strip()) if part]


@dataclass(frozen=True, slots=True)
class Phrases:
    """Several ways to say one thing: `{slot}` stands for a text, `{Slot}` for the same with its first letter large.

    `write(i, slots)` gives the i-th way; `read(text)` all (way, slots) that could have given a text. A slot matches
    anything, so the reader checks what it found against the words that exist.
    """

    patterns: tuple[str, ...]
    _compiled: tuple[re.Pattern[str], ...] = field(init=False, compare=False)

    def __init__(self, patterns: Sequence[str]) -> None:
        object.__setattr__(self, "patterns", tuple(patterns))
        object.__setattr__(self, "_compiled", tuple(map(_regex, patterns)))

    def __len__(self) -> int:
        return len(self.patterns)

    def write(self, way: int, slots: Mapping[str, str]) -> str:
        return fill(self.patterns[way], slots)

    def read(self, text: str) -> Iterator[tuple[int, dict[str, str]]]:
        for way, pattern in enumerate(self._compiled):
            found = pattern.fullmatch(text)
            if found is not None:
                yield way, found.groupdict()


def fill(pattern: str, slots: Mapping[str, str]) -> str:
    """The pattern with its slots filled."""

    def value(slot: re.Match[str]) -> str:
        name = slot[1]
        return slots[name] if name in slots else capitalised(slots[name.lower()])

    return _SLOT.sub(value, pattern)


def _regex(pattern: str) -> re.Pattern[str]:
    seen: set[str] = set()
    parts: list[str] = []
    end = 0
    for slot in _SLOT.finditer(pattern):
        name = slot[1]
        parts.append(re.escape(pattern[end : slot.start()]))
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>.+?)")
        seen.add(name)
        end = slot.end()
    return re.compile("".join(parts) + re.escape(pattern[end:]), re.DOTALL)
