"""ScriptedGenerator: an upstream that says what it is told, for tests, demonstrations and stored answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from aligner.prompts import question_text
from aligner.types import Chat, Completion, Delta, Sampling, Usage

Script = Mapping[str, str] | Callable[[Chat], str | Completion]


class ScriptedGenerator:
    """Answers from a mapping of question text to answer, or from a function of the chat.

    A question that the mapping lacks, or a function that raises, gives a failed completion. `delay` waits that many
    seconds before each answer, to play a slow upstream.
    """

    def __init__(self, script: Script, *, name: str = "scripted", delay: float = 0.0) -> None:
        self.name = name
        self._script = script
        self._delay = delay

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Answer every chat, in order."""
        for i, chat in enumerate(chats):
            if self._delay:
                await asyncio.sleep(self._delay)
            yield i, self._answer(chat, sampling)

    async def stream(self, chat: Chat, sampling: Sampling) -> AsyncIterator[Delta]:
        """The same answer word by word; `delay` is waited before each word."""
        completion = self._answer(chat, sampling)
        for word in re.findall(r"\s*\S+|\s+$", completion.text):
            if self._delay:
                await asyncio.sleep(self._delay)
            yield Delta(text=word)
        yield Delta(text="", finish_reason=completion.finish_reason, usage=completion.usage)

    def _answer(self, chat: Chat, sampling: Sampling) -> Completion:
        question = question_text(chat)
        try:
            answer = self._script[question] if isinstance(self._script, Mapping) else self._script(chat)
        except KeyError:
            return Completion(text="", finish_reason="error", error=f"the script has no answer to {question!r}")
        except Exception as e:
            return Completion(text="", finish_reason="error", error=f"the script failed: {e}")
        if isinstance(answer, Completion):
            return answer
        words = re.findall(r"\s*\S+", answer)
        usage = Usage(prompt_tokens=len(question.split()), completion_tokens=len(words))
        if sampling.max_new_tokens is not None and len(words) > sampling.max_new_tokens:
            return Completion(text="".join(words[: sampling.max_new_tokens]), finish_reason="length", usage=usage)
        return Completion(text=answer, finish_reason="stop", usage=usage)
