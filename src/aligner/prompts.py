"""PromptFormat: how a question and an answer become the corrector's token ids, in training and in serving alike.

Fixed parts and user text are encoded apart in the "chat" format, and no user text can yield a special token's id in
any (see `tokens.TextCodec`). The published formats mark their parts with ordinary words, so there text that imitates
a marker is flagged and nothing is promised.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from aligner.config import nearest
from aligner.errors import CheckpointError, PromptError
from aligner.tokens import TextCodec
from aligner.types import Chat, Message

PresetName = Literal["aligner-v1", "aligner-repo", "chat"]
Unit = Literal["answer", "sentence"]

INSTRUCTION = (
    "You correct answers. Read the question and the answer given to it, then write the corrected answer: more helpful, "
    "harmless and honest, with as few changes as possible. If the answer is already good, repeat it unchanged."
)
REQUEST = "Correct the answer above."

# Published formats: what stands before the question, between question and answer, and after the answer.
# aligner-v1: the released 7B checkpoint's model card. aligner-repo: PKU-Alignment/aligner, the training code.
_PUBLISHED: dict[str, tuple[str, str, str]] = {
    "aligner-v1": (
        "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more helpful and "
        "harmless: ",
        " | ",
        " ASSISTANT:",
    ),
    "aligner-repo": (
        "BEGINNING OF CONVERSATION: USER: ##Question: ",
        "\n##Answer: ",
        "\n##Correction:  ASSISTANT:",
    ),
}
_MARKERS = {
    "aligner-v1": ("BEGINNING OF CONVERSATION:", "USER:", "ASSISTANT:", " | "),
    "aligner-repo": ("BEGINNING OF CONVERSATION:", "USER:", "ASSISTANT:", "##Question:", "##Answer:", "##Correction:"),
}
_ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
# Private-use letters: no template trims, escapes or looks for them.
_QUESTION, _ANSWER, _REPLY = "\ue0f0question\ue0f0", "\ue0f1answer\ue0f1", "\ue0f2reply\ue0f2"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """Token ids of one prompt, and what had to be done to get them.

    `dropped_turns` counts the oldest turns left out to fit; `flags` names text that imitates the format's markers.
    """

    ids: tuple[int, ...]
    dropped_turns: int = 0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """A named layout: fixed text before, between and after question and answer, and the token that ends a correction.

    The fixed parts are stored, not the template they came from, so a template that changes with the date or with a
    library's version cannot part serving from training.

    `unit` is what is corrected at a time. Of a sentence, the prompt holds what was corrected before it in the answer's
    place, then the sentence in a turn of its own, between two times what stands after an answer. White space behind the
    sentence tells that more follows.
    """

    name: PresetName
    before: str
    between: str
    after: str
    end: str
    unit: Unit = "answer"

    @classmethod
    def preset(cls, name: str, tokenizer: Any, *, instruction: str = INSTRUCTION, request: str = REQUEST) -> Self:
        """Build a preset for a tokenizer: "chat" (the default for new correctors), "aligner-v1" or "aligner-repo".

        `instruction` (the system message; "" leaves it out) and `request` (the turn after the answer) are for "chat".

        Raises:
            PromptError: no such preset, or the tokenizer lacks what it needs (an end token, a chat template).
        """
        if name == "chat":
            before, between, after, end = _chat_parts(tokenizer, instruction, request)
            return cls(name="chat", before=before, between=between, after=after, end=end)
        if name not in _PUBLISHED:
            raise PromptError(f"no prompt format is called '{name}'; {nearest(name, [*_PUBLISHED, 'chat'])}")
        if tokenizer.eos_token is None:
            raise PromptError(f"the tokenizer has no end token, which '{name}' needs; set eos_token in its config")
        before, between, after = _PUBLISHED[name]
        return cls(name=name, before=before, between=between, after=after, end=tokenizer.eos_token)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, str]:
        values = {k: getattr(self, k) for k in ("name", "before", "between", "after", "end")}
        return values if self.unit == "answer" else values | {"unit": self.unit}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "prompt") -> Self:
        """Read back what `to_json` wrote.

        Raises:
            CheckpointError: a field is missing or is not text, or this version knows no such format.
        """
        fields = ("name", "before", "between", "after", "end")
        for name in fields:
            if not isinstance(values.get(name), str):
                raise CheckpointError(f"{where}: the prompt's '{name}' is missing or no text; save the corrector again")
        if values["name"] not in get_args(PresetName):
            raise CheckpointError(
                f"{where}: this version knows no prompt format '{values['name']}'; "
                f"{nearest(values['name'], list(get_args(PresetName)))}"
            )
        if values.get("unit", "answer") not in get_args(Unit):
            raise CheckpointError(
                f"{where}: the prompt's 'unit' is {values['unit']!r}; it is {' or '.join(get_args(Unit))}"
            )
        texts: dict[str, Any] = {name: values[name] for name in fields}
        return cls(**texts, unit=values.get("unit", "answer"))

    def encode(
        self, codec: TextCodec, chat: Chat, answer: str, max_tokens: int | None = None, *, prefix: str = ""
    ) -> EncodedPrompt:
        """Token ids up to where the correction starts. `prefix` is what was corrected before, of an answer whose next
        sentence is `answer`.

        With `max_tokens`, the oldest turns of a conversation are left out until the prompt fits; its last turn and the
        answer never are, so a prompt may still be longer: the caller decides what becomes of such a row.

        Raises:
            PromptError: a text cannot be encoded without a special token's id.
        """
        flags = self._imitated(chat, prefix + answer)
        if max_tokens is None or len(chat) < 2 or not codec.exceeds(question_text(chat), max_tokens):
            ids = self._ids(codec, question_text(chat), answer, prefix)
            if max_tokens is None or len(ids) <= max_tokens:
                return EncodedPrompt(ids=ids, flags=flags)

        def fits(dropped: int) -> bool:
            question = question_text(chat[dropped:])  # of one that is far too long, the beginning is enough
            return not codec.exceeds(question, max_tokens) and (
                len(self._ids(codec, question, answer, prefix)) <= max_tokens
            )

        turns = range(1, len(chat))
        dropped = min(bisect.bisect_left(turns, True, key=fits) + 1, len(chat) - 1)
        ids = self._ids(codec, question_text(chat[dropped:]), answer, prefix)
        return EncodedPrompt(ids=ids, dropped_turns=dropped, flags=flags)

    def encode_open(self, codec: TextCodec, chat: Chat, answer: str) -> tuple[int, ...]:
        """Token ids of a prompt whose answer (of sentences: what was corrected before) is not whole yet, up to where
        it goes on.

        The whole prompt may part from them in the last few ids, or further back where a tokenizer looks further.

        Raises:
            PromptError: as `encode`.
        """
        question = question_text(chat)
        if self.name != "chat":
            return (*codec.first_ids, *codec.encode(self.before + question + self.between + answer))
        return self._before_answer(codec, question) + codec.encode(answer)

    def encode_before(self, codec: TextCodec, chat: Chat) -> tuple[int, ...] | None:
        """The ids of `encode_open` before the answer; None in a format that is encoded as one text.

        Raises:
            PromptError: as `encode`.
        """
        return self._before_answer(codec, question_text(chat)) if self.name == "chat" else None

    def encode_correction(self, codec: TextCodec, correction: str) -> tuple[int, ...]:
        """Token ids of the completion, the end token last: what training takes its loss on.

        Raises:
            PromptError: the text cannot be encoded without a special token's id, or there is no end token.
        """
        end = self.end_id(codec)
        if self.name != "chat":
            # Encoded whole, as the prompt is: after "ASSISTANT:" a SentencePiece vocabulary has "Hello", not "▁Hello".
            head = codec.encode(self.after)
            joined = codec.encode(self.after + correction)
            if joined[: len(head)] == head:
                return (*joined[len(head) :], end)
        return (*codec.encode(correction), end)

    def end_id(self, codec: TextCodec) -> int:
        """Id of the token that ends a correction.

        Raises:
            PromptError: the tokenizer does not know it as one token.
        """
        found = codec.token_id(self.end)
        if found is None:
            raise PromptError(
                f"the tokenizer has no token {self.end!r}, which ends a correction in this format; "
                "use the tokenizer that was saved with the corrector"
            )
        return found

    def stop_ids(self, codec: TextCodec) -> frozenset[int]:
        """Ids at which decoding stops: the format's end token and the tokenizer's own."""
        eos = codec.tokenizer.eos_token_id
        return frozenset({self.end_id(codec)} if eos is None else {self.end_id(codec), eos})

    def _ids(self, codec: TextCodec, question: str, answer: str, prefix: str) -> tuple[int, ...]:
        sentence = self.unit == "sentence"
        if self.name == "chat":
            return (
                *self._before_answer(codec, question),
                *((*codec.encode(prefix), *codec.encode_fixed(self.after)) if sentence else ()),
                *codec.encode(answer),
                *codec.encode_fixed(self.after),
            )
        told = prefix + self.after + answer if sentence else answer
        # The published formats were trained on the whole string, so it is encoded whole: apart, "harmless: " and the
        # question's first word would be other tokens than the released checkpoints saw.
        return (*codec.first_ids, *codec.encode(self.before + question + self.between + told + self.after))

    def _before_answer(self, codec: TextCodec, question: str) -> tuple[int, ...]:
        return (*codec.encode_fixed(self.before), *codec.encode(question), *codec.encode_fixed(self.between))

    def _imitated(self, chat: Chat, answer: str) -> tuple[str, ...]:
        texts = [answer, *(m.content for m in chat)]
        return tuple(f"marker:{m.strip()}" for m in _MARKERS.get(self.name, ()) if any(m in text for text in texts))


def question_text(chat: Chat) -> str:
    """A conversation as text: a lone user turn as it is, several turns as role lines, oldest first."""
    if len(chat) == 1 and chat[0].role == "user":
        return chat[0].content
    return "\n".join(f"{_ROLE_NAMES[m.role]}: {m.content}" for m in chat)


def _chat_parts(tokenizer: Any, instruction: str, request: str) -> tuple[str, str, str, str]:
    """Cut the tokenizer's own chat template around question and answer: before, between, after and the end token.

    Layout: the instruction as system message, the question as the user's turn, the answer as the assistant's, then a
    fixed request; so the borders of question and answer are the template's special tokens, which no text can forge.
    """
    if tokenizer.chat_template is None:
        raise PromptError(
            "the tokenizer has no chat template, which the format 'chat' needs; name another format: aligner-v1 or "
            "aligner-repo"
        )
    system = [Message(role="system", content=instruction)] if instruction else []
    asked = Message(role="user", content=_QUESTION)
    merged = Message(role="user", content=f"{instruction}\n\n{_QUESTION}" if instruction else _QUESTION)
    answered = [Message(role="assistant", content=_ANSWER), Message(role="user", content=request)]
    for layout in ([*system, asked, *answered], [merged, *answered]):
        text = _render(tokenizer, layout, add_generation_prompt=True)
        # Templates trim what they are given, or leave a role out without a word.
        if (
            text is not None
            and all(t.strip() in text for t in (instruction, request))
            and (text.count(_QUESTION) == text.count(_ANSWER) == 1)
        ):
            break
    else:
        raise PromptError(
            "the tokenizer's chat template takes neither a system message nor a user-assistant-user conversation; "
            "name another format: aligner-v1 or aligner-repo"
        )
    before, rest = text.split(_QUESTION)
    between, after = rest.split(_ANSWER)
    full = _render(tokenizer, [*layout, Message(role="assistant", content=_REPLY)], add_generation_prompt=False) or ""
    return before, between, after, _end_token(tokenizer, full)


def _render(tokenizer: Any, turns: Sequence[Message], add_generation_prompt: bool) -> str | None:
    from jinja2 import TemplateError

    chat = [{"role": m.role, "content": m.content} for m in turns]
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt))
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError):
        return None  # templates refuse roles by raising whatever they like


def _end_token(tokenizer: Any, conversation: str) -> str:
    """The first special token after the assistant's last turn; the tokenizer's end token where none follows."""
    tail = conversation.rsplit(_REPLY, maxsplit=1)[-1] if _REPLY in conversation else ""
    codec = TextCodec(tokenizer)
    if ends := [i for i in codec.encode_fixed(tail) if i in codec.reserved]:
        return str(tokenizer.convert_ids_to_tokens(ends[0]))
    if tokenizer.eos_token is None:
        raise PromptError("neither the chat template nor the tokenizer has a token that ends an answer; set eos_token")
    return str(tokenizer.eos_token)
