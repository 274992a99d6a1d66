"""Revise: a model that answers, criticises its own answer and revises it, by the prompts of a method.

The two published baselines are methods: critique and revision by one drawn principle (Constitutional AI, Bai et al.
2022, section 3.1, without the training that follows), and self-critique by all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from aligner.generate.collect import closing
from aligner.generate.method import Method, Principle, fill
from aligner.types import Chat, Completion, Generator, KeptBecause, Message, Sampling, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Critique:
    """What a model said of its answer. `passed` is None where that does not say, or where the request failed."""

    text: str
    passed: bool | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """An answer after critique and revision. `text` is what to show, `usage` what critiques and revision took.

    `critiques` are by the principle's name. `kept_because` says why a revision was thrown away and the answer kept, and
    `error` what failed; an answer that passes is kept without either.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    critiques: Mapping[str, Critique] = field(default_factory=dict)
    kept_because: KeptBecause | None = None
    error: str | None = None


class Revise:
    """Wraps any upstream; a Generator itself, with the upstream's own sampling in all three steps.

    Args:
        upstream: answers, criticises and revises.
        method: the prompts.
        name: how reports call it; left out, both names.
        seed: of what the method draws.
        window: answers that are under way at a time. All critiques of a window are one call of the upstream, and so
            are all revisions.
    """

    def __init__(
        self, upstream: Generator, method: Method, *, name: str | None = None, seed: int = 0, window: int = 256
    ) -> None:
        self.upstream, self.method, self.seed, self.window = upstream, method, seed, window
        self.name = name or f"{upstream.name}+{method.name}"

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Revised answers; usage adds all requests. Failed answers pass through.

        Where criticising or revising failed, the answer stands as it was, and `error` says what failed.
        """
        for start in range(0, len(chats), self.window):
            answered: list[tuple[int, Completion]] = []
            async with closing(_every(self.upstream, chats[start : start + self.window], sampling)) as answers:
                async for i, answer in answers:
                    if _error(answer) is None:
                        answered.append((start + i, answer))
                    else:
                        yield start + i, answer
            pairs = ((chats[i], answer.text) for i, answer in answered)
            async with closing(self.revise(pairs, sampling)) as revisions:
                async for k, revision in revisions:
                    i, answer = answered[k]
                    usage = answer.usage + revision.usage
                    if revision.text != answer.text:
                        answer = replace(answer, text=revision.text, finish_reason="stop")
                    yield i, replace(answer, usage=usage, error=revision.error)

    async def revise(
        self, pairs: Iterable[tuple[Chat, str]], sampling: Sampling
    ) -> AsyncIterator[tuple[int, Revision]]:
        """Revise answers that exist already; yields (index of the pair, revision) as they finish, window by window.

        Raises:
            GenerationError: the upstream failed on a whole batch; what was yielded before it is whole.
        """
        numbered = enumerate(pairs)
        while window := list(islice(numbered, self.window)):
            jobs = [self._job(i, chat, answer) for i, (chat, answer) in window]
            asked = [(job, principle) for job in jobs for principle in job.principles]
            requests = [
                _request(fill(principle.critique, question=job.question, answer=job.answer)) for job, principle in asked
            ]
            failing = []
            async with closing(_every(self.upstream, requests, sampling)) as critiques:
                async for k, completion in critiques:
                    job, principle = asked[k]
                    job.hear(principle, completion)
                    if len(job.critiques) < len(job.principles):
                        continue
                    if job.error is None and job.failed():
                        failing.append(job)
                    else:
                        yield job.index, job.kept(None if job.error is None else "error")
            requests = [self._revision_of(job) for job in failing]
            async with closing(_every(self.upstream, requests, sampling)) as revisions:
                async for k, completion in revisions:
                    yield failing[k].index, failing[k].revised(completion)

    def _job(self, index: int, chat: Chat, answer: str) -> _Job:
        question = self.method.question(chat)
        principles = self.method.drawn(question, answer, self.seed)
        return _Job(index=index, question=question, answer=answer, principles=principles)

    def _revision_of(self, job: _Job) -> Chat:
        failed = job.failed() if self.method.revise_by == "all" else job.failed()[:1]
        said = (
            self.method.critique_of(p, job.critiques[p.name].text, job.question, job.answer, self.seed) for p in failed
        )
        critique = "\n\n".join(said)
        return _request(fill(failed[0].revise, question=job.question, answer=job.answer, critique=critique))


@dataclass(slots=True, kw_only=True)
class _Job:
    """One answer on its way."""

    index: int
    question: str
    answer: str
    principles: tuple[Principle, ...]
    critiques: dict[str, Critique] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    error: str | None = None

    def hear(self, principle: Principle, completion: Completion) -> None:
        """Take down one critique."""
        self.usage += completion.usage
        error = _error(completion)
        text = completion.text.strip()
        passed = principle.passed(text) if error is None else None
        self.critiques[principle.name] = Critique(text=text, passed=passed, error=error)
        if error is not None and self.error is None:
            self.error = f"the critique by '{principle.name}' failed: {error}"

    def failed(self) -> list[Principle]:
        """The principles that the answer is to be revised by, in the method's order."""
        return [p for p in self.principles if p.passes is None or self.critiques[p.name].passed is False]

    def kept(self, because: KeptBecause | None) -> Revision:
        # In the method's order, whatever the order in which the critiques came.
        critiques = {p.name: self.critiques[p.name] for p in self.principles}
        return Revision(text=self.answer, usage=self.usage, critiques=critiques, kept_because=because, error=self.error)

    def revised(self, completion: Completion) -> Revision:
        self.usage += completion.usage
        if error := _error(completion):
            self.error = f"the revision failed: {error}"
            return self.kept("error")
        text = completion.text.strip()
        if not text:
            return self.kept("emptied")
        if completion.finish_reason == "length":
            return self.kept("cut")
        # White space at the ends is no revision.
        return replace(self.kept(None), text=self.answer if text == self.answer.strip() else text)


def _request(text: str) -> Chat:
    return (Message(role="user", content=text),)


def _error(completion: Completion) -> str | None:
    """What failed; None where nothing did."""
    if completion.finish_reason not in ("error", "cancelled"):
        return None
    return completion.error or f"the upstream stopped ({completion.finish_reason})"


async def _every(
    upstream: Generator, chats: Sequence[Chat], sampling: Sampling
) -> AsyncIterator[tuple[int, Completion]]:
    """One completion for each chat: what the upstream never yields is a failed one."""
    if not chats:
        return
    left = dict.fromkeys(range(len(chats)))
    async with closing(upstream.generate(chats, sampling)) as found:
        async for i, completion in found:
            del left[i]
            yield i, completion
    for i in left:
        yield i, Completion(text="", finish_reason="error", error="the upstream gave no answer")
