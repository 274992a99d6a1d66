"""TextCodec: a user's text to token ids and back, so that no text can ever yield a special token's id."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from aligner.errors import PromptError

# Encoding with or without special tokens switches the backend in place, which two threads must not do at once, through
# whichever codecs they share a tokenizer.
_LOCKS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()

_CHARACTERS = 8  # of a text, that are one token at the least in all but blanks and the like
_ABOUT = 64  # tokens


def encodable(text: str) -> str:
    """The text with question marks in place of lone surrogates, which are no text and which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class TextCodec:
    """A tokenizer, used safely.

    User text is encoded with special-token splitting and the outcome is checked, because splitting alone leaves gaps:
    added tokens that are not marked special, unigram vocabularies that hold `</s>` as a piece, normalisers that turn
    full-width letters into a token's text. Text that still forms a reserved token is cut inside it and encoded in
    pieces.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._lock = _LOCKS.setdefault(tokenizer, threading.Lock())
        names = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special or _is_markup(t.content)}
        names |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self.reserved = frozenset(names.values())
        longest_first = sorted((n for n in names if len(n) > 1), key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
        # A look-ahead, so that occurrences that overlap are all found.
        self._tokens = re.compile(f"(?=(?:{pattern}))", re.IGNORECASE)
        self._unknown = tokenizer.unk_token_id
        self._fixed: dict[str, tuple[int, ...]] = {}
        self._first: tuple[int, ...] | None = None

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a user's text, none of them reserved.

        Lone surrogates, which are no text, and characters that the tokenizer does not know become question marks.

        Raises:
            PromptError: a single character is a special token, so that no way of cutting helps.
        """
        if not text:
            return ()
        text = encodable(text)
        ids = self._plain(text)
        if self.reserved.isdisjoint(ids):
            return tuple(ids)
        # A cut after the first character of every occurrence leaves no token's text whole in any piece.
        edges = sorted({0, len(text), *(match.start() + 1 for match in self._tokens.finditer(text))})
        pieces = (text[start:stop] for start, stop in itertools.pairwise(edges))
        return tuple(i for piece in pieces for i in self._without_reserved(piece))

    def exceeds(self, text: str, most: int) -> bool:
        """Whether the beginning of a long text has more than so many tokens already; False says nothing of it."""
        # A cut changes a few of the tokens before it in vocabularies that join across words.
        enough = most + _ABOUT
        start = enough * _CHARACTERS
        return len(text) > 2 * start and len(self.encode(text[:start])) > enough

    def spells_reserved(self, text: str) -> bool:
        """Whether a text holds the name of a reserved token, which a server that encodes it would take for one."""
        return self._tokens.search(text) is not None

    def encode_fixed(self, text: str) -> tuple[int, ...]:
        """Ids of a format's own text, where special tokens are meant."""
        if text not in self._fixed:
            with self._lock:
                ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
            self._fixed[text] = tuple(ids["input_ids"])
        return self._fixed[text]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out, spaces as they are."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_id(self, token: str) -> int | None:
        """Id of one token by its name, or None where the vocabulary has none."""
        found = self.tokenizer.convert_tokens_to_ids(token)
        if found is None or (found == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token):
            return None
        return int(found)

    @property
    def first_ids(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text: its begin token, or nothing."""
        if self._first is None:
            with self._lock:
                whole = self.tokenizer("a", split_special_tokens=False, verbose=False)["input_ids"]
            plain = self._plain("a")
            starts = (i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
            self._first = tuple(whole[: next(starts, 0)])
        return self._first

    def _plain(self, text: str) -> list[int]:
        with self._lock:
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(ids["input_ids"])

    def _without_reserved(self, text: str) -> list[int]:
        """Ids of a text that spells no token, though a normaliser may make one out of it: then it is halved."""
        ids = self._plain(text)
        if self._unknown in ids:
            # Not only in the whole text: a character may be unknown that stands in a piece which was cut.
            unknown = {c for c in set(text) if self._unknown in self._plain(c)}
            text = "".join("?" if c in unknown else c for c in text)
            ids = self._plain(text)
        bad = self.reserved.intersection(ids)
        if not bad:
            return ids
        if len(text) == 1:
            token = self.tokenizer.convert_ids_to_tokens(min(bad))
            raise PromptError(
                f"the text holds {text!r}, which this tokenizer can only write as its special token {token!r}; "
                "remove it from the text"
            )
        middle = len(text) // 2
        return self._without_reserved(text[:middle]) + self._without_reserved(text[middle:])


def _is_markup(token: str) -> bool:
    """Whether an added token that is not marked special is more than ordinary text.

    Runs of blanks (GPT-NeoX; Gemma writes them with "▁") and single letters (DeepSeek has "ö") are ordinary text.
    """
    return len(token) > 1 and bool(token.replace("▁", " ").strip())


class IncrementalText:
    """Turns ids that arrive one by one into pieces of text that join to `decode` of all of them.

    A piece is held back while it ends inside a character. Only a short window is decoded again at each step. Text that
    was cut off inside a character ends in replacement characters, of which vocabularies with byte fallback may give
    fewer here than in `decode`: there, one unfinished character spoils the finished ones right before it.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._ids: list[int] = []
        self._start = 0  # the window's first id; text before it is settled
        self._sent = 0  # ids whose text has been handed out

    def push(self, ids: Sequence[int], final: bool = False) -> str:
        """Add ids; returns the text that is now certain (with `final`, all that is left)."""
        self._ids.extend(ids)
        before = self._codec.decode(self._ids[self._start : self._sent])
        now = self._codec.decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith("\ufffd") and not final):
            return ""
        self._start, self._sent = self._sent, len(self._ids)
        return now[len(before) :]
