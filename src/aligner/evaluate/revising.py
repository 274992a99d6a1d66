"""The second step of a method: upstreams revise their own answers, each revision kept as it comes."""

from __future__ import annotations

from aligner.correct.guards import GuardPolicy, check
from aligner.evaluate.progress import Progress
from aligner.evaluate.store import Store
from aligner.evaluate.tasks import Suite
from aligner.generate.collect import closing
from aligner.generate.revise import Critique, Revise
from aligner.prompts import question_text
from aligner.types import Sampling


async def revise(
    reviser: Revise,
    suite: Suite,
    sampling: Sampling,
    answers: Store,
    store: Store,
    progress: Progress,
    policy: GuardPolicy,
) -> None:
    """Revise every answer that the store lacks a correction of; one at which a request failed is kept as failed.

    A correction has to pass the same guards, whether a corrector or a method made it.

    Raises:
        GenerationError: the upstream failed on a whole batch; the revisions before it are kept.
    """
    places = [place for place in store.missing() if place in answers]
    pairs = ((suite.items[place].question, str(answers.get(place)["answer"])) for place in places)
    async with closing(reviser.revise(pairs, sampling)) as revisions:
        async for k, revision in revisions:
            place = places[k]
            answer, text, kept = answers.get(place)["answer"], revision.text, revision.kept_because
            if text != answer:
                question = question_text(suite.items[place].question)
                kept = check(question=question, answer=answer, correction=text, finish_reason="stop", policy=policy)
            row = {
                "correction": text if kept is None else answer,
                "kept_because": kept,
                "prompt_tokens": revision.usage.prompt_tokens,
                "completion_tokens": revision.usage.completion_tokens,
                "critiques": {name: _row(critique) for name, critique in revision.critiques.items()},
            }
            store.write(place, row, revision.error)
            progress.step()


def _row(critique: Critique) -> dict[str, str | bool | None]:
    error = {} if critique.error is None else {"error": critique.error}
    return {"passed": critique.passed, "text": critique.text, **error}
