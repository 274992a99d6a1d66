"""Scripts that leak into a correction: characters that neither its question nor its answer uses."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import regex

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


def leaks_script(question: str, answer: str, correction: str) -> bool:
    """Whether the correction uses a script that question and answer do not use and the question does not name."""
    if correction.isascii():
        return False
    return bool(leaked_scripts(f"{question}\n{answer}", correction, named_scripts(question)))


def leaked_scripts(reference: str, text: str, named: frozenset[str] | None = None) -> frozenset[str]:
    """Scripts of `text` that `reference` does not use and that are not `named`, by Unicode name ("Other": rare ones).

    Latin is never among them, nor are Greek letters that stand alone. A mark that several scripts share ("。", "،")
    counts as the first of them, and is at home with any. `text` may be a piece of a stream: ASCII ones cost nothing,
    and only a Greek word broken over pieces goes unseen. `named` is `named_scripts(reference)` unless given.
    """
    if text.isascii():
        return frozenset()
    return AtHome.of(reference, named_scripts(reference) if named is None else named).leaked(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHome:
    """What is at home beside a text that is read once: scripts, and the marks that stand for several."""

    scripts: frozenset[str]
    marks: frozenset[str]

    @classmethod
    def of(cls, reference: str, named: frozenset[str]) -> Self:
        """Of what `reference` uses, and of the scripts that are `named`."""
        used, marks = _scripts_in(reference)
        japanese = frozenset() if (used | named).isdisjoint(("Hiragana", "Katakana")) else _JAPANESE
        return cls(scripts=used | named | japanese, marks=frozenset(shared[0] for shared in marks))

    def leaked(self, text: str) -> frozenset[str]:
        """As `leaked_scripts`."""
        if text.isascii():
            return frozenset()
        found, marks = _scripts_in(text)
        foreign = {shared[0] for shared in marks if self.scripts.isdisjoint(shared)}
        return (found - self.scripts) | (foreign - self.marks)


def named_scripts(text: str) -> frozenset[str]:
    """Scripts of the languages that `text` names in words, such as Cyrillic where it says "in Russian"."""
    words = set(_WORD.findall(text.lower())) & _SCRIPTS_OF.keys()
    if not text.isascii():
        words.update(name for name in _UNSPACED if name in text)
    return frozenset().union(*(_SCRIPTS_OF[word] for word in words))


def script_counts(text: str) -> Counter[str]:
    """Letters of each script, by Unicode name; Latin among them, and "Other" for the rare ones."""
    counts: Counter[str] = Counter()
    for char, count in Counter(text).items():
        if _LETTER.match(char):
            _, scripts = _scripts_of(char)
            counts[scripts[0] if scripts else "Latin"] += count
    return counts


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
