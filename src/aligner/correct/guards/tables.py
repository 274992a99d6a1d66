"""Markdown tables of the answer whose rows no longer stand in one."""

from __future__ import annotations

import re

from aligner import edits
from aligner.correct.guards.markdown import read

_RULE = re.compile(r"\s{0,3}\|?\s*+:?-++:?\s*+(?:\|\s*+:?-++:?\s*+)*+\|?\s*\Z")
_MOST = 0.8  # of a row's words: so many still stand where the row was taken apart


def loses_table(answer: str, correction: str) -> bool:
    """Whether most rows of a table of the answer stand in the correction, in a line of no table or in loose words.

    Rows that were taken out are not lost.
    """
    if "|" not in answer:
        return False
    old, _ = _tables(answer)
    if not old:
        return False
    new, loose = _tables(correction)
    tabled = {_row(line) for table in new for line in table}
    # Words that the tables of the correction have are no sign of a row outside them.
    known = {word for row in tabled for word in row}
    outside = {word for line in loose for word in _row(line)} - known
    for table in old:
        rows = [row for row in map(_row, table) if row]
        lost = 0
        for row in rows:
            words = set(row) - known
            lost += row not in tabled and bool(words) and len(words & outside) >= _MOST * len(words)
        if rows and 2 * lost > len(rows):
            return True
    return False


def _tables(text: str) -> tuple[list[list[str]], list[str]]:
    """Lines of every table, headers first, its rule left out; and the lines of none."""
    tables: list[list[str]] = []
    loose: list[str] = []
    inside = False
    for line in read(text).prose:
        if inside and "|" in line and line.strip():
            tables[-1].append(line)
            continue
        inside = "|" in line and bool(_RULE.match(line)) and bool(loose) and "|" in loose[-1]
        if inside:
            tables.append([loose.pop()])
        else:
            loose.append(line)
    return tables, loose


def _row(line: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in edits.words(line) if word.isalnum())
