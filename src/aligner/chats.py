"""Chats: the turns of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aligner.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation, named as in the OpenAI API."""

    role: Role
    content: str


Chat = tuple[Message, ...]


def as_chat(question: str | Sequence[Message | Mapping[str, Any]]) -> Chat:
    """A question in any accepted form as a chat: a string is one user turn, mappings are OpenAI messages.

    Raises:
        DataError: no turns, an unknown role, content that is not text, or a chat that ends with the assistant.
    """
    if isinstance(question, str):
        return (Message(role="user", content=question),)
    if not isinstance(question, Sequence):
        raise DataError(f"the question is a {type(question).__name__}; expected text or a list of turns")
    turns: list[Message] = []
    for i, turn in enumerate(question):
        role: Any
        content: Any
        if isinstance(turn, Message):
            role, content = turn.role, turn.content
        elif isinstance(turn, Mapping):
            role, content = turn.get("role"), turn.get("content")
        else:
            raise DataError(f"turn {i} is a {type(turn).__name__}; expected an object with 'role' and 'content'")
        if role not in ROLES:
            raise DataError(f"turn {i} has the role {role!r}; expected one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"turn {i} has content of type {type(content).__name__}; expected text")
        turns.append(Message(role=role, content=content))
    if not turns:
        raise DataError("the question has no turns; give at least one user message")
    if turns[-1].role == "assistant":
        raise DataError("the question ends with an assistant turn; the answer to correct is given apart from it")
    return tuple(turns)
