"""Rows of any kind as a language model learns them: plain text, or a prompt and its completion.

A prompt's ids are those that generation gives the same chat (`HFGenerator`): the tokenizer's own template, encoded
whole. Only where a text would yield a special token there, the template's parts and the texts are encoded apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aligner.errors import DataError, PromptError
from aligner.prompts import PromptFormat, question_text
from aligner.rows import Row, read_rows
from aligner.tokens import TextCodec
from aligner.train.row_file import EncodedRow
from aligner.types import Chat, Message, Triplet, as_chat, content_hash

_EXPECTED = 'expected {"text": …} or {"prompt": …, "completion": …}'
# Private-use letters: no template trims, escapes or looks for them.
_MARK = "\ue0f3{}\ue0f4"
_MARKS = re.compile("\ue0f3(\\d+)\ue0f4")
_BLANK = " \t{}\t "


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """A text to learn: after `prompt`, or alone where that is None. `where` is its file and line."""

    text: str
    prompt: Chat | None
    where: str

    @property
    def triplet(self) -> Triplet:
        """The row as the rules for splitting and picking see it: rows with one prompt, or with one text, are one."""
        question = self.prompt if self.prompt is not None else ""
        bare = Triplet(question=question, answer=self.text, correction=self.text)
        return Triplet(
            question=question, answer=self.text, correction=self.text, id=content_hash(bare.question_key, self.text)
        )


def read_text_rows(*paths: str | Path) -> Iterator[TextRow]:
    """Yield the rows of JSON lists or JSONL files (plain, .gz or .xz), one by one.

    A row is {"text": …}, or {"prompt": text or a list of messages, "completion": …}; other fields are passed over.

    Raises:
        DataError: with file and line, a file that cannot be read or a row that is neither.
    """
    for path in paths:
        for row in read_rows(path):
            yield _text_row(f"{path}:{row.line}", row)


def texts_of(files: Sequence[Path], rows: int) -> Iterator[str]:
    """The texts of the first rows, for a tokenizer to be trained on."""
    for i, row in enumerate(read_text_rows(*files)):
        if i >= rows:
            return
        yield from (message.content for message in row.prompt or ())
        yield row.text


def _text_row(where: str, row: Row) -> TextRow:
    value = row.value
    found = [name for name in ("text", "prompt", "completion") if name in value]
    if found not in (["text"], ["prompt", "completion"]):
        raise DataError(f"{where}: found {', '.join(found or value) or 'no field'}; {_EXPECTED}")
    name = found[-1]
    if not isinstance(value[name], str):
        raise DataError(f"{where}: '{name}' is a {type(value[name]).__name__}; expected text")
    if name == "text":
        return TextRow(text=value[name], prompt=None, where=where)
    prompt = value["prompt"]
    if not isinstance(prompt, str | list):
        raise DataError(f"{where}: 'prompt' is a {type(prompt).__name__}; expected text or a list of messages")
    try:
        return TextRow(text=value[name], prompt=as_chat(prompt), where=where)
    except DataError as e:
        raise DataError(f"{where}: in 'prompt', {e}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """A template around turns of certain roles: its own ids, and which turn's text stands after each part of them."""

    fixed: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    trimmed: frozenset[int]
    reserved: tuple[int, ...]


class TextFormat:
    """How rows become token ids for one tokenizer.

    Raises:
        PromptError: the tokenizer has no end token.
    """

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec
        self._tokenizer: Any = codec.tokenizer
        self._layouts: dict[tuple[tuple[str, str], ...], _Layout] = {}
        if self._tokenizer.eos_token_id is None:
            raise PromptError("the tokenizer has no end token, which closes a text; set eos_token in its config")

    @cached_property
    def end_id(self) -> int:
        """Id of the token after a completion: what the chat template ends an answer with, else the end token."""
        try:
            prompt = PromptFormat.preset("chat", self._tokenizer, instruction="", request="")
        except PromptError:  # no template, or one that takes no such conversation
            return int(self._tokenizer.eos_token_id)
        return prompt.end_id(self.codec)

    def encode(self, row: TextRow) -> EncodedRow:
        """Ids of a row; its `prompt_length` is 0 for plain text, every token of which is learned.

        Raises:
            DataError: the text cannot be encoded, or the template does not take the prompt; names file and line.
        """
        try:
            if row.prompt is None:
                end = int(self._tokenizer.eos_token_id)
                return EncodedRow(ids=(*self.codec.first_ids, *self.codec.encode(row.text), end), prompt_length=0)
            prompt = self.prompt_ids(row.prompt)
            completion = self._completion(row.prompt, row.text)
        except PromptError as e:
            raise DataError(f"{row.where}: {e}") from None
        return EncodedRow(ids=(*prompt, *completion, self.end_id), prompt_length=len(prompt))

    def prompt_ids(self, chat: Chat) -> tuple[int, ...]:
        """Ids up to where the answer starts, none of them a special token that a turn's text brought in.

        Raises:
            PromptError: the template refuses the chat, or a text cannot be encoded.
        """
        layout = self._layout(chat)
        if self._tokenizer.chat_template is None:
            texts = [question_text(chat)]
            whole = self._whole(texts[0], first=True)
        else:
            texts = [m.content for m in chat]
            whole = self._whole(self._render(chat), first=False)
        if self._reserved(whole) == layout.reserved:
            return whole
        ids = list(layout.fixed[0])
        for turn, fixed in zip(layout.order, layout.fixed[1:], strict=True):
            text = texts[turn].strip() if turn in layout.trimmed else texts[turn]
            ids += (*self.codec.encode(text), *fixed)
        return tuple(ids)

    def _completion(self, chat: Chat, text: str) -> tuple[int, ...]:
        if self._tokenizer.chat_template is None:
            # Encoded after its prompt: alone, a SentencePiece vocabulary puts a blank before the first word.
            before = question_text(chat)
            head, joined = self.codec.encode(before), self.codec.encode(before + text)
            if joined[: len(head)] == head:
                return joined[len(head) :]
        return self.codec.encode(text)

    def _layout(self, chat: Chat) -> _Layout:
        template = self._tokenizer.chat_template is not None
        # Blank turns stay as they are, because templates may leave them out.
        turns = tuple((m.role, "" if m.content.strip() else f"={m.content}") for m in chat) if template else ()
        if turns not in self._layouts:
            self._layouts[turns] = self._cut_template(chat) if template else self._no_template()
        return self._layouts[turns]

    def _cut_template(self, chat: Chat) -> _Layout:
        marked = [_MARK.format(i) if m.content.strip() else m.content for i, m in enumerate(chat)]
        pieces = _MARKS.split(self._render(_with_texts(chat, marked)))
        padded = [_BLANK.format(mark) if mark.strip() else mark for mark in marked]
        untouched = self._render(_with_texts(chat, padded))
        fixed = tuple(self.codec.encode_fixed(part) for part in pieces[::2])
        return _Layout(
            fixed=fixed,
            order=tuple(map(int, pieces[1::2])),
            trimmed=frozenset(i for i, text in enumerate(padded) if text not in untouched),
            reserved=self._reserved([i for part in fixed for i in part]),
        )

    def _no_template(self) -> _Layout:
        """Only what the tokenizer itself puts around a text."""
        first, plain = self.codec.first_ids, self.codec.encode("a")
        last = self._whole("a", first=True)[len(first) + len(plain) :]
        return _Layout(fixed=(first, last), order=(0,), trimmed=frozenset(), reserved=self._reserved([*first, *last]))

    def _render(self, chat: Chat) -> str:
        from jinja2 import TemplateError

        messages = [{"role": m.role, "content": m.content} for m in chat]
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as e:
            roles = ", ".join(m.role for m in chat)
            raise PromptError(
                f"the tokenizer's chat template takes no conversation of {roles} ({e}); change the row's turns"
            ) from None

    def _whole(self, text: str, *, first: bool) -> tuple[int, ...]:
        """Ids as generation encodes a prompt: special tokens that stand in it count."""
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode("utf-8")
        ids = self._tokenizer(text, add_special_tokens=first, split_special_tokens=False, verbose=False)
        return tuple(ids["input_ids"])

    def _reserved(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(i for i in ids if i in self.codec.reserved)


def _with_texts(chat: Chat, texts: Sequence[str]) -> Chat:
    return tuple(Message(role=m.role, content=text) for m, text in zip(chat, texts, strict=True))
