"""When a correction must be thrown away and the original answer kept. Pure functions on text, linear in its length.

Every guard compares the correction with the answer it corrects, so what was odd in the answer already is not held
against the correction: a copy passes them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import regex

from aligner import edits
from aligner.types import FinishReason, KeptBecause

# How a text ends is seen on its last characters; patterns that may backtrack look at no more than these.
_TAIL = 400

# East Asian scripts come first: a mark that several scripts share is named by the first of them.
_EAST_ASIAN = ("Han", "Hiragana", "Katakana", "Hangul", "Bopomofo")
_JAPANESE = frozenset({"Han", "Hiragana", "Katakana"})
_SCRIPTS = (
    *_EAST_ASIAN,
    *("Arabic", "Cyrillic", "Devanagari", "Greek", "Hebrew", "Thai", "Bengali", "Gujarati", "Gurmukhi", "Tamil"),
    *("Telugu", "Kannada", "Malayalam", "Sinhala", "Oriya", "Lao", "Khmer", "Myanmar", "Tibetan", "Mongolian"),
    *("Georgian", "Armenian", "Ethiopic", "Syriac", "Thaana", "Cherokee"),
)
_OWNED = {name: regex.compile(rf"\p{{Script={name}}}") for name in _SCRIPTS}
_USED = {name: regex.compile(rf"\p{{Script_Extensions={name}}}") for name in _SCRIPTS}
_SHARED = regex.compile(r"[\p{Script=Common}\p{Script=Inherited}]")
_LATIN = regex.compile(r"\p{Script_Extensions=Latin}")
_LETTER = regex.compile(r"\p{L}")
# Money, pictures and blanks are at home in any text, though Unicode gives some of them a script.
_AT_HOME = regex.compile(r"[\p{Sc}\p{Emoji}\p{Z}\p{Default_Ignorable_Code_Point}]")
# Unicode gives the fullwidth forms to no script (their letters to Latin), though only East Asian text uses them.
_FULLWIDTH = regex.compile(r"[\uff01-\uff60\uffe0-\uffe6]")
# One or two Greek letters are mathematics; three in a row, an accent, or a final sigma make a word.
_GREEK_WORD = regex.compile(r"\p{Greek}{3}|[\u0386\u0388-\u0390\u03aa-\u03b0\u03ca-\u03ce]|\p{Greek}[\u0301\u03c2]")

# Languages named in words. Names of scripts stand for themselves.
_LANGUAGES = {
    "Han Bopomofo": "chinese mandarin cantonese hanzi hanja chinois chino chinesisch cinese chinês 中文 汉语 漢語",
    "Han Hiragana Katakana": "japanese kanji japonais japonés japanisch giapponese japonês 日语 日語 日文 日本語",
    "Hangul": "korean coréen coreano koreanisch 韩语 韓語 韩文 韓国語",
    "Arabic Gurmukhi": "punjabi",
    "Arabic": "persian farsi urdu pashto uyghur kurdish sindhi arabe árabe arabisch arabo 阿拉伯 アラビア語",
    "Cyrillic": "russian ukrainian belarusian bulgarian serbian macedonian kazakh kyrgyz tajik mongolian "
    "russe ruso russisch russo 俄语 俄文 俄語 ロシア語",
    "Devanagari": "hindi marathi nepali sanskrit konkani 印地语 ヒンディー語",
    "Greek": "grec griego griechisch greco 希腊语 ギリシャ語",
    "Hebrew": "yiddish hébreu hebreo hebräisch ebraico 希伯来语 ヘブライ語",
    "Thai": "thaï tailandés thailändisch 泰语 泰文 タイ語",
    "Bengali": "bangla assamese",
    "Myanmar": "burmese",
    "Ethiopic": "amharic tigrinya",
    " ".join(_SCRIPTS): "languages alphabets multilingual unicode",
}
_SCRIPTS_OF: dict[str, frozenset[str]] = {name.lower(): frozenset({name}) for name in _SCRIPTS}
for _own, _names in _LANGUAGES.items():
    for _name in _names.split():
        _SCRIPTS_OF[_name] = _SCRIPTS_OF.get(_name, frozenset()) | frozenset(_own.split())
# Chinese and Japanese write without spaces, so these names cannot be found as words.
_UNSPACED = tuple(name for name in _SCRIPTS_OF if _USED["Han"].search(name))
_WORD = re.compile(r"[^\W\d_]+")

_VISIBLE = regex.compile(r"[^\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]")
_STOP = r"[\p{Sentence_Terminal}\u2025\u2026\u22ef]"
# What may follow the last stop: quotes, brackets, Markdown, a code fence, HTML tags, pictures.
_CLOSER = r"(?:[\s\p{Pe}\p{Pf}\p{Pi}\p{So}\p{Sk}\p{Cc}\p{Cf}\ufe0f\"'*_`~|\\]|</?\w{1,12}\s?/?>)"
_ENDED = regex.compile(rf"{_STOP}{_CLOSER}*+\Z")
# A stop with another sentence after it.
_SENTENCES = regex.compile(r"[.!?\u2026]\s+\w|(?![.!?])\p{Sentence_Terminal}\s*\w")
_UNSEEN_END = regex.compile(r"[\s\p{Cc}\p{Cf}\ufe0f\\]++\Z")
# The look back lets a sad face pass.
_HANGING = regex.compile(r"(?:[,،、，:：;；—–]|(?<![:;=]-?)\p{Ps}|\s[&+/\p{Pd}\p{Pi}\p{Sc}])\Z")
_INSIDE = regex.compile(r"[\p{L}\p{Mn}\p{Mc}\p{N}%]\Z")
_HEADING = regex.compile(r"\s{0,3}#{1,6}\s")
_ITEM = regex.compile(r"\s*(?:[-*+•◦‣–]|\(?(?:\d{1,3}|\p{L})\s?[.)、])\s*\S")
_BARE_MARKER = regex.compile(r"\s*(?:[-*+•◦‣–]|\(?\d{1,3}\s?[.)、]?)\s*\Z")
_CODE = regex.compile(r"[={}]|->|::|;\Z|\\[a-zA-Z]| \| ")
_ADDRESS = regex.compile(r"(?:\w+://|www\.|[#@]\w|\S+@|\S+\.\w+/)\S*\Z")
# In words: the longest bare answer, greeting and name under a letter, and verse.
_BARE, _SIGNATURE, _VERSE = 3, 6, 12

_FENCE = re.compile(r"\s*+(?:(?:>|[-*+]\s|\d+[.)]\s)\s*+)*+(`{3,}+|~{3,}+)([^`]*)\Z")


def check(*, question: str, answer: str, correction: str, finish_reason: FinishReason) -> KeptBecause | None:
    """Why the original answer must be kept, or None where the correction may be shown.

    `question` is the whole conversation as one text. The guards are asked in the order cut, emptied, script_leak,
    lost_code_fence; the first that fires gives the reason.
    """
    if is_cut(answer, correction, finish_reason):
        return "cut"
    if is_emptied(answer, correction):
        return "emptied"
    if leaks_script(question, answer, correction):
        return "script_leak"
    if loses_code_fence(answer, correction):
        return "lost_code_fence"
    return None


def is_cut(answer: str, correction: str, finish_reason: FinishReason) -> bool:
    """Whether the correction ended before it was finished.

    It did where the model ran out of room, and where the answer ended a sentence but the correction stops inside one.
    What needs no stop is whole: bare answers ("42"), addresses, code, signatures, and lines of a kind that the answer
    leaves without a stop too (list items, verses).
    """
    if finish_reason == "length":
        return True
    lines = _lines(correction)
    if correction == answer or not lines or not _ends_sentence(answer):
        return False
    last = lines[-1]
    if len(lines) > 1 and _BARE_MARKER.match(last) and _ITEM.match(lines[-2]):
        return True
    if _ends_sentence(last):
        return False
    end = _end(last)
    left_open = _read(correction).open and not _read(answer).open
    if _hangs(last):
        return left_open or not _CODE.search(end)
    return _INSIDE.search(end) is not None and (left_open or not _is_whole(lines, answer))


def is_emptied(answer: str, correction: str) -> bool:
    """Whether nothing visible is left of an answer that had something."""
    return not _VISIBLE.search(correction) and _VISIBLE.search(answer) is not None


def leaks_script(question: str, answer: str, correction: str) -> bool:
    """Whether the correction uses a script that question and answer do not use and the question does not name."""
    return bool(leaked_scripts(f"{question}\n{answer}", correction, named_scripts(question)))


def leaked_scripts(reference: str, text: str, named: frozenset[str] | None = None) -> frozenset[str]:
    """Scripts of `text` that `reference` does not use and that are not `named`, by Unicode name ("Other": rare ones).

    Latin is never among them, nor are Greek letters that stand alone. A mark that several scripts share ("。", "،")
    counts as the first of them, and is at home with any. `text` may be a piece of a stream: ASCII ones cost nothing,
    and only a Greek word broken over pieces goes unseen. `named` is `named_scripts(reference)` unless given.
    """
    if text.isascii():
        return frozenset()
    found, marks = _scripts_in(text)
    if not found and not marks:
        return frozenset()
    allowed, known_marks = _scripts_in(reference)
    allowed |= named_scripts(reference) if named is None else named
    if not allowed.isdisjoint(("Hiragana", "Katakana")):
        allowed |= _JAPANESE
    foreign = {shared[0] for shared in marks if allowed.isdisjoint(shared)}
    return (found - allowed) | (foreign - {shared[0] for shared in known_marks})


def named_scripts(text: str) -> frozenset[str]:
    """Scripts of the languages that `text` names in words, such as Cyrillic where it says "in Russian"."""
    words = set(_WORD.findall(text.lower())) & _SCRIPTS_OF.keys()
    if not text.isascii():
        words.update(name for name in _UNSPACED if name in text)
    return frozenset().union(*(_SCRIPTS_OF[word] for word in words))


def loses_code_fence(answer: str, correction: str) -> bool:
    """Whether code stands outside its fence: most lines of a block of the answer do, or a fence is never closed.

    Code that was taken out altogether is not lost: a refusal may well replace it.
    """
    if not any(fence in text for fence in ("```", "~~~") for text in (answer, correction)):
        return False
    old, new = _read(answer), _read(correction)
    if new.open and not old.open:
        return True
    fenced = {_squeezed(line) for block in new.blocks for line in block}
    loose = {_squeezed(line) for line in new.prose} - fenced
    for block in old.blocks:
        code = {line for line in map(_squeezed, block) if len(line) > 3 and _LETTER.search(line)}
        if 2 * len(code & loose) > len(code):
            return True
    return False


@lru_cache(maxsize=4096)
def _scripts_of(char: str) -> tuple[bool, tuple[str, ...]]:
    """(is it shared, scripts that use it): none for Latin and for what is at home in any text."""
    if _FULLWIDTH.match(char):
        return True, _EAST_ASIAN
    if char.isascii() or _LATIN.match(char) or _AT_HOME.match(char):
        return False, ()
    if _SHARED.match(char):
        return True, tuple(name for name in _SCRIPTS if _USED[name].match(char))
    for name in _SCRIPTS:
        if _OWNED[name].match(char):
            return False, (name,)
    return False, ("Other",) if _LETTER.match(char) else ()


def _scripts_in(text: str) -> tuple[frozenset[str], set[tuple[str, ...]]]:
    """Scripts that own characters of `text`, and the groups of scripts that share its marks."""
    own: set[str] = set()
    marks: set[tuple[str, ...]] = set()
    for char in set(text):
        shared, scripts = _scripts_of(char)
        if shared and scripts:
            marks.add(scripts)
        else:
            own.update(scripts)
    if "Greek" in own and not _GREEK_WORD.search(text):
        own.remove("Greek")
    return frozenset(own), marks


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if _VISIBLE.search(line)]


def _end(text: str) -> str:
    return str(_UNSEEN_END.sub("", text.rstrip()[-_TAIL:]))


def _ends_sentence(text: str) -> bool:
    return _ENDED.search(text.rstrip()[-_TAIL:]) is not None


def _hangs(line: str) -> bool:
    """Whether a line ends on something that never ends a text, such as a comma, or a title and its colon."""
    return _HANGING.search(_end(line).rstrip("*_ ")) is not None


def _is_whole(lines: list[str], answer: str) -> bool:
    """Whether a text whose last line ends in a letter or a digit needs no stop there."""
    last, old = lines[-1], _lines(answer)
    words = _words(last)
    if len(lines) == len(words) == 1:
        return True
    if _HEADING.match(last) or last.count("(") > last.count(")"):
        return False
    if len(lines) > 1 and lines[-2].rstrip().endswith(",") and len(f"{lines[-2]} {last}".split()) <= _SIGNATURE:
        return True
    copied, stump = {_squeezed(line) for line in old}, _squeezed(last)
    if stump in copied:
        return True
    if any(line.startswith(stump) and line[len(stump)].isalnum() for line in copied):
        return False
    if _ADDRESS.search(end := _end(last)) or _CODE.search(end):
        return True
    if len(lines) == 1 and (len(words) <= _BARE or _is_whole_sentence(last, answer)):
        return True
    return (len(words) <= _VERSE or bool(_ITEM.match(last))) and _leaves_stops_out(last, old[:-1], lines[:-1])


def _is_whole_sentence(sentence: str, answer: str) -> bool:
    """Whether a lone sentence that lacks its stop has a fit last word: not one from which the answer goes on."""
    if _SENTENCES.search(sentence) or _SENTENCES.search(answer):
        return False
    last, old = _words(sentence)[-1], _words(answer)
    return last not in old or last == old[-1]


def _leaves_stops_out(last: str, *texts: list[str]) -> bool:
    """Whether lines of the kind of `last`, in the first text that has two or more, go without a stop half the time."""
    for lines in texts:
        alike = [line for line in lines if bool(_ITEM.match(line)) == bool(_ITEM.match(last))]
        stops = [_ends_sentence(line) for line in alike if not _HEADING.match(line) and not _hangs(line)]
        if len(stops) > 1:
            return 2 * sum(stops) <= len(stops)
    return False


def _words(text: str) -> list[str]:
    return [word for word in edits.words(text) if word.isalnum()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A text apart: lines outside fences, the lines of every fenced block, and whether the last fence is open."""

    prose: list[str]
    blocks: list[list[str]]
    open: bool


def _read(text: str) -> _Read:
    prose: list[str] = []
    blocks: list[list[str]] = []
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if not fence and mark:
            fence = mark[1]
            blocks.append([])
        elif mark and mark[1].startswith(fence) and not mark[2].strip():
            fence = ""
        elif fence:
            blocks[-1].append(line)
        else:
            prose.append(line)
    return _Read(prose=prose, blocks=blocks, open=bool(fence))


def _squeezed(line: str) -> str:
    return "".join(line.split())
