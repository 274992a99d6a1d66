"""What a corrector wrote to a Correction: the guards are asked, and the original kept where they say so."""

from __future__ import annotations

from aligner.correct.guards import GuardPolicy, ResponseFormat, check, reported
from aligner.prompts import EncodedPrompt, PromptFormat, question_text
from aligner.types import Chat, Completion, Correction, KeptBecause


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
            question=question, answer=answer, correction=text, wanted=wanted, policy=policy or GuardPolicy()
        )
    return Correction(
        question=chat, answer=answer, text=completion.text, completion=completion, flags=(*_flags(prompt), *seen)
    )


def kept(chat: Chat, answer: str, prompt: EncodedPrompt, completion: Completion, reason: KeptBecause) -> Correction:
    """The answer as it was, and why."""
    return Correction(
        question=chat, answer=answer, text=answer, completion=completion, kept_because=reason, flags=_flags(prompt)
    )


def trimmed(form: PromptFormat, answer: str, text: str) -> str:
    """The published formats end in "ASSISTANT:", so their models put a space of their own first."""
    own = form.name != "chat" and not answer.startswith(" ")
    return text.removeprefix(" ") if own else text


def _flags(prompt: EncodedPrompt) -> tuple[str, ...]:
    return (*prompt.flags, *([f"dropped_turns:{prompt.dropped_turns}"] if prompt.dropped_turns else []))
