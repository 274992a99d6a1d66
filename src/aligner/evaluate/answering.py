"""The first step: the answers of an upstream, asked for or read from a file, each kept as it comes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from aligner.errors import DataError
from aligner.evaluate.progress import Progress
from aligner.evaluate.store import Store
from aligner.evaluate.tasks import Suite
from aligner.generate.collect import closing
from aligner.types import Completion, Generator, Sampling

# Questions that are handed to an upstream together; it may sort and batch them as it likes.
_WINDOW = 2048


async def ask(upstream: Generator, suite: Suite, sampling: Sampling, store: Store, progress: Progress) -> None:
    """Ask for every answer that the store lacks. A failed one, or one that never comes, is kept as failed.

    Raises:
        GenerationError: the model failed on a whole batch; the answers before it are kept.
    """
    missing = store.missing()
    for start in range(0, len(missing), _WINDOW):
        window = missing[start : start + _WINDOW]
        left = set(window)
        async with closing(upstream.generate([suite.items[place].question for place in window], sampling)) as answers:
            async for i, completion in answers:
                left.discard(window[i])
                _keep(store, window[i], completion)
                progress.step()
        for place in sorted(left):
            _keep(store, place, Completion(text="", finish_reason="error", error="the upstream gave no answer"))
            progress.step()


def take_over(texts: Iterable[tuple[int, str | None]], store: Store) -> None:
    """Keep stored answers that the store lacks. None is a failed one, and so is one that is not there."""
    lacking = set(store.missing())
    for place, text in chain(texts, ((place, None) for place in store.missing())):
        if place in lacking:
            lacking.discard(place)
            reason = "error" if text is None else "stop"
            error = "no answer is stored" if text is None else None
            store.write(place, {"answer": text or "", "finish_reason": reason}, error)


@dataclass(slots=True, kw_only=True)
class OddAnswers:
    """How many answers say that something is wrong with an upstream or its settings; they count like any other.

    `cut` ended at their longest length, as far as that is known, and `reasoning` begin with a `<think>` block. The
    gateway corrects neither a cut answer nor the reasoning.
    """

    blank: int = 0
    cut: int = 0
    reasoning: int = 0


def check_answers(name: str, suite: Suite, store: Store) -> OddAnswers:
    """Count those that are odd.

    Raises:
        DataError: all are blank.
    """
    odd = OddAnswers()
    for place, row in store.rows():
        if place in store:
            odd.blank += not row["answer"].strip()
            odd.cut += row["finish_reason"] == "length"
            odd.reasoning += row["answer"].lstrip().startswith("<think>")
    if odd.blank < store.whole():
        return odd
    errors = next(iter(store.failed.values()), None)
    why = f"{len(store.failed)} failed, the first: {errors}" if errors else "all are blank"
    raise DataError(f"{store.path}: the upstream '{name}' answered none of {len(suite)} questions ({why}); put the "
                    "model or its stored answers right, then start anew with --overwrite")  # fmt: skip


def _keep(store: Store, place: int, completion: Completion) -> None:
    failed = completion.finish_reason in ("error", "cancelled")
    error = (completion.error or f"the upstream stopped ({completion.finish_reason})") if failed else None
    usage = {
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
    }
    store.write(place, {"answer": completion.text, "finish_reason": completion.finish_reason, **usage}, error)
