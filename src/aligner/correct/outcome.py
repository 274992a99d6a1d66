"""What a corrector wrote to a Correction: the guards are asked, and the original kept where they say so."""

from __future__ import annotations

from aligner.correct.guards import AtHome, GuardPolicy, ResponseFormat, check, named_scripts, reported
from aligner.prompts import EncodedPrompt, PromptFormat, question_text
from aligner.types import Chat, Completion, Correction, Delta, KeptBecause

_REACH = 3  # characters by which a word of a script is told from a letter of it


def finished(
    chat: Chat,
    answer: str,
    prompt: EncodedPrompt,
    completion: Completion,
    *,
    wanted: ResponseFormat | None = None,
    policy: GuardPolicy | None = None,
    passed: bool = False,
) -> Correction:
    """The correction of an answer, or the answer and the reason for which it was kept.

    What a gate let through (`passed`) is the answer itself, of which no guard has anything to say.
    """
    if completion.finish_reason == "cancelled":
        return kept(chat, answer, prompt, completion, "cancelled")
    if completion.finish_reason == "error":
        return kept(chat, answer, prompt, completion, "error")
    seen: tuple[str, ...] = ()
    if not passed:
        question, text = question_text(chat), completion.text
        reason = check(
            question=question,
            answer=answer,
            correction=text,
            finish_reason=completion.finish_reason,
            wanted=wanted,
            policy=policy or GuardPolicy(),
        )
        if reason is not None:
            return kept(chat, answer, prompt, completion, reason)
        seen = reported(
            question=question, answer=answer, correction=text, finish_reason=completion.finish_reason, wanted=wanted,
            policy=policy or GuardPolicy(),
        )  # fmt: skip
    return Correction(
        question=chat, answer=answer, text=completion.text, completion=completion, flags=(*_flags(prompt), *seen)
    )


def kept(chat: Chat, answer: str, prompt: EncodedPrompt, completion: Completion, reason: KeptBecause) -> Correction:
    """The answer as it was, and why."""
    return Correction(
        question=chat, answer=answer, text=answer, completion=completion, kept_because=reason, flags=_flags(prompt)
    )


def last(done: Correction) -> Delta:
    """What ends the stream of a correction."""
    return Delta(text="", finish_reason=done.completion.finish_reason, usage=done.completion.usage,
                 kept_because=done.kept_because, flags=done.flags, gate=done.gate,
                 error=done.completion.error)  # fmt: skip


def no_room(tokens: int, context: int) -> str:
    """What is wrong with a prompt of so many tokens that leaves too little for a correction."""
    return f"question and answer have {tokens} tokens; this corrector takes {context}, the correction included"


def trimmed(form: PromptFormat, answer: str, text: str) -> str:
    """The published formats end in "ASSISTANT:", so their models put a space of their own first."""
    own = form.name != "chat" and not answer.startswith(" ")
    return text.removeprefix(" ") if own else text


class ScriptWatch:
    """Looks for foreign scripts in a correction while it is written; what it finds, the guards find in the whole.

    Where the policy does not enforce that guard, it finds nothing.
    """

    def __init__(self, chat: Chat, answer: str, policy: GuardPolicy) -> None:
        question = question_text(chat)
        self._home: AtHome | None = None
        if policy.script_leak == "enforce":  # read once: question and answer may be long, and pieces are many
            self._home = AtHome.of(f"{question}\n{answer}", named_scripts(question))
        self._tail = ""

    def leaks(self, piece: str) -> bool:
        """Whether this next piece brings in a script that neither question nor answer uses."""
        if self._home is None:
            return False
        # Letters that stand alone may be at home where a word of them is not, so words are seen across pieces.
        text, self._tail = self._tail + piece, (self._tail + piece)[-_REACH:]
        return bool(self._home.leaked(text))


def _flags(prompt: EncodedPrompt) -> tuple[str, ...]:
    return (*prompt.flags, *([f"dropped_turns:{prompt.dropped_turns}"] if prompt.dropped_turns else []))
