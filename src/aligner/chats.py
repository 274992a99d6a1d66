"""Chats: the turns of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aligner.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
# The roles of OpenAI's API that are one of these; what tools return is told by the user.
_SAME: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOLS = ("tool", "function")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation, named as in the OpenAI API."""

    role: Role
    content: str


Chat = tuple[Message, ...]


def api_turn(role: object, text: str) -> Message:
    """A turn of OpenAI's API as one of ours; of a role that is not known it is what a tool returned."""
    same = _SAME.get(role) if isinstance(role, str) else None
    return Message(role=same, content=text) if same else Message(role="user", content=f"Tool result: {text}")


def part_text(part: object) -> str | None:
    """The text of one part of a turn's content; None where it is none, such as an image."""
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else None


def is_bare_call(turn: Mapping[str, Any], text: str) -> bool:
    """Whether a turn of the assistant only calls tools; a corrector is told what they return."""
    return turn.get("role") == "assistant" and not text and bool(turn.get("tool_calls") or turn.get("function_call"))


def as_chat(question: str | Sequence[Message | Mapping[str, Any]]) -> Chat:
    """A question in any accepted form as a chat: a string is one user turn, mappings are OpenAI messages.

    Of those, developers count as system, what tools returned is told by the user, the texts of a content's parts are
    joined by line ends, and turns that only call tools are left out.

    Raises:
        DataError: no turns, an unknown role, content that is not text, or a chat that ends with the assistant.
    """
    if isinstance(question, str):
        return (Message(role="user", content=question),)
    if not isinstance(question, Sequence):
        raise DataError(f"the question is a {type(question).__name__}; expected text or a list of turns")
    turns: list[Message] = []
    for i, turn in enumerate(question):
        if isinstance(turn, Message):
            turns.append(_checked(turn, i))
        elif isinstance(turn, Mapping):
            turns.extend(_told(turn, i))
        else:
            raise DataError(f"turn {i} is a {type(turn).__name__}; expected an object with 'role' and 'content'")
    if not turns:
        raise DataError("the question has no turns; give at least one user message")
    if turns[-1].role == "assistant":
        raise DataError("the question ends with an assistant turn; the answer to correct is given apart from it")
    return tuple(turns)


def _checked(turn: Message, i: int) -> Message:
    if turn.role not in ROLES:
        raise DataError(f"turn {i} has the role {turn.role!r}; expected one of {', '.join(ROLES)}")
    if not isinstance(turn.content, str):
        raise DataError(f"turn {i} has content of type {type(turn.content).__name__}; expected text")
    return turn


def _told(turn: Mapping[str, Any], i: int) -> list[Message]:
    role, content = turn.get("role"), turn.get("content")
    known = (*_SAME, *_TOOLS)
    if role not in known:
        raise DataError(f"turn {i} has the role {role!r}; expected one of {', '.join(known)}")
    if isinstance(content, list):
        texts = [part_text(part) for part in content]
        if None in texts:
            part = content[texts.index(None)]
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(f"turn {i} has a part of type {kind!r} without text; give text parts only")
        content = "\n".join(text for text in texts if text is not None)
    if is_bare_call(turn, content or ""):
        return []
    if not isinstance(content, str):
        raise DataError(f"turn {i} has content of type {type(content).__name__}; expected text")
    return [api_turn(role, content)]
