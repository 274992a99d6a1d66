"""When a correction must be thrown away and the original answer kept. Pure functions on text, linear in its length.

Every guard compares the correction with the answer it corrects, so what was odd in the answer already is not held
against the correction: a copy passes them all.
"""

from aligner.correct.guards.check import check, reported
from aligner.correct.guards.citations import loses_citation
from aligner.correct.guards.collapse import collapses
from aligner.correct.guards.endings import is_cut, is_emptied
from aligner.correct.guards.facts import changes_numbers, changes_urls
from aligner.correct.guards.fences import leaves_fence_open, loses_code_fence
from aligner.correct.guards.formats import ResponseFormat, breaks_format, is_json, may_become_json, schema_in
from aligner.correct.guards.language import changes_language, language_of
from aligner.correct.guards.latex import loses_latex
from aligner.correct.guards.policy import GuardPolicy
from aligner.correct.guards.repetition import repeats
from aligner.correct.guards.scripts import AtHome, leaked_scripts, leaks_script, named_scripts
from aligner.correct.guards.tables import loses_table

__all__ = [
    "AtHome",
    "GuardPolicy",
    "ResponseFormat",
    "breaks_format",
    "changes_language",
    "changes_numbers",
    "changes_urls",
    "check",
    "collapses",
    "is_cut",
    "is_emptied",
    "is_json",
    "language_of",
    "leaked_scripts",
    "leaks_script",
    "leaves_fence_open",
    "loses_citation",
    "loses_code_fence",
    "loses_latex",
    "loses_table",
    "may_become_json",
    "named_scripts",
    "repeats",
    "reported",
    "schema_in",
]
