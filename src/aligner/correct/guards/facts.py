"""Numbers and addresses of the answer that the correction has otherwise."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

# Scripts that put no blanks go on right behind an address, and their punctuation closes it.
_UNSPACED = r"\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef\U00020000-\U0003ffff"
_REST = rf"[^\s<>\"'`|\\“”‘’{_UNSPACED}]++"
# With its scheme, as www.name, or as name.tld/path.
_URL = re.compile(
    rf"(?:https?|ftp)://{_REST}|(?<![a-z\d._@/-])(?:www\.|(?:[a-z\d-]++\.)++[a-z]{{2,24}}/){_REST}", re.IGNORECASE
)
_SCHEME = re.compile(r"\Ahttps?://", re.IGNORECASE)
# What ends a sentence, or closes a bracket that Markdown opened, is no part of an address.
_AFTER_URL = ".,;:!?*_~…"
_DIGITS = r"\d++(?:[.,]\d++)*+"
_PERCENT = r"[ \u00a0\u202f]?(?:[%％]|per\s?cent\b)"
# A sign stands behind nothing that it could join to the number, as in ranges and dates; of a range, both ends are per
# cent.
_NUMBER = re.compile(rf"((?<![\w.)\]}}%°-])[-−])?({_DIGITS})({_PERCENT}|(?=[ ]?[-–—][ ]?{_DIGITS}{_PERCENT}))?")
# The number of a list item changes with the items before it. Within its line: over blank ones, each would be a start.
_ITEM = re.compile(r"^(?:[^\S\n]|[>*#_])*+\(?\d{1,3}[.):](?=\s|\*|_|\Z)", re.MULTILINE)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})++(?:\.\d++)?+")


def changes_numbers(question: str, answer: str, correction: str) -> bool:
    """Whether a number of the answer is gone and another has come that the question does not have.

    Numbers in digits count, with their sign and "%", each as often as it stands there; those in addresses and of list
    items do not. A number that was only left out, with its sentence, or only added is no change.
    """
    return _changes(_numbers, question, answer, correction)


def changes_urls(question: str, answer: str, correction: str) -> bool:
    """Whether a web address of the answer is gone and another has come that the question does not have.

    One that was only left out, or only added, is no change.
    """
    return _changes(_urls, question, answer, correction)


def without_urls(text: str) -> str:
    """The text with a blank in place of every web address."""
    return _URL.sub(" ", text)


def _changes(find: Callable[[str], Counter[str]], question: str, answer: str, correction: str) -> bool:
    before, after = find(answer), find(correction)
    if not before - after or not after - before:
        return False
    known = find(question)  # only now: it is the whole conversation
    return any(new not in known for new in after - before)


def _urls(text: str) -> Counter[str]:
    return Counter(_trimmed(url) for url in _URL.findall(text))


def _trimmed(url: str) -> str:
    url = _SCHEME.sub("", url).rstrip(_AFTER_URL)
    for opening, closing in ("()", "[]", "{}"):
        if url.count(closing) > url.count(opening):
            url = url[: _surplus(url, opening, closing)].rstrip(_AFTER_URL)
    return url


def _surplus(url: str, opening: str, closing: str) -> int:
    """Where the first closing bracket stands that the address did not open."""
    depth = 0
    for place, char in enumerate(url):
        depth += (char == opening) - (char == closing)
        if depth < 0:
            return place
    return len(url)


def _numbers(text: str) -> Counter[str]:
    found = _NUMBER.finditer(_ITEM.sub(" ", without_urls(text)))
    return Counter("-" * bool(n[1]) + _plain(n[2]) + "%" * (n[3] is not None) for n in found)


def _plain(number: str) -> str:
    """One spelling: "1,000" is 1000, "2.50" is 2.5, and every script's digits are the same."""
    number = unicodedata.normalize("NFKC", number)
    if _THOUSANDS.fullmatch(number):
        number = number.replace(",", "")
    whole, dot, rest = number.partition(".")
    if dot and rest.isdigit():
        number = f"{whole}.{rest.rstrip('0')}".rstrip(".")
    return number
