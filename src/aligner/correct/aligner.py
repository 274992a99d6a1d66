"""Aligner: the corrector μ_φ. Loads one, corrects answers with it, streams them, saves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from aligner.correct.card import AlignerCard, checkpoint_place, load_card
from aligner.correct.decoding import StepLoop
from aligner.correct.gate import Gate, GateCalibration, GateMode, gate_of
from aligner.correct.guards import GuardPolicy, ResponseFormat
from aligner.correct.jobs import Jobs
from aligner.correct.sentence_session import SentenceSession
from aligner.correct.session import Session
from aligner.errors import ConfigError, DataError
from aligner.generate.collect import closing, in_order
from aligner.generate.hf import Dtype, Quantize, context_length, load_causal_lm, weight_bits
from aligner.prompts import question_text
from aligner.tokens import TextCodec
from aligner.types import Chat, Correction, Delta, Message, Sampling, Triplet, as_chat

Question = str | Sequence[Message | Mapping[str, Any]]


class Aligner:
    """A corrector: `Aligner.from_pretrained(path).correct(question, answer).text` is the corrected answer.

    Args:
        model, tokenizer: as `load_causal_lm` gives them.
        card: the prompt format it was trained with, and its lineage.
        sampling: how corrections are decoded; greedy unless told otherwise.
        max_rows: answers that are corrected at the same time.
        cache_tokens: positions the key-value cache may hold; None leaves it to `max_rows`.
        speculate: verify the answer in place of writing it token by token; the corrections are the same.
        gate: "balanced" and "strict" let answers through untouched that the corrector finds good enough, as the card's
            calibration says; a Gate has a threshold of one's own.
        guards: what keeps the original answer, and what is only reported.

    Raises:
        CheckpointError: a gate that the card has no calibration for.
        ConfigError: no such gate, one without `speculate`, whose passes it reads, or one for a corrector of
            sentences.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        card: AlignerCard,
        *,
        sampling: Sampling | None = None,
        max_rows: int = 64,
        cache_tokens: int | None = None,
        speculate: bool = True,
        gate: GateMode | Gate = "off",
        guards: GuardPolicy | None = None,
    ) -> None:
        self.model, self.tokenizer, self.card = model, tokenizer, card
        self.sampling, self.speculate = sampling or Sampling(), speculate
        self.quantize = weight_bits(model.config)
        self.gate = self._checked(gate)
        self.guards = guards or GuardPolicy()
        self.codec = TextCodec(tokenizer)
        self._stop_ids = card.prompt.stop_ids(self.codec)
        self._loop = StepLoop(model, max_rows=max_rows, cache_tokens=cache_tokens)
        self.context = self._loop.context or context_length(model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        prompt: str | None = None,
        device: str | None = None,
        dtype: Dtype = "auto",
        sampling: Sampling | None = None,
        max_rows: int = 64,
        cache_tokens: int | None = None,
        speculate: bool = True,
        gate: GateMode | Gate = "off",
        guards: GuardPolicy | None = None,
        quantize: Quantize = "none",
    ) -> Self:
        """Load a corrector from a directory, a training run's directory, or by Hub id.

        `prompt` names the format of a checkpoint that has no aligner.json, such as the released ones. `quantize` keeps
        the weights in 8 or 4 bits, which takes the extra [quant].

        Raises:
            CheckpointError: no model there, no aligner.json and no `prompt`, or a gate that it was not calibrated for.
            ConfigError: no such gate, or one without `speculate`; or to quantise, the extra [quant] is missing.
        """
        path = checkpoint_place(path)
        model, tokenizer = load_causal_lm(path, device=device, dtype=dtype, quantize=quantize)
        card = load_card(path, tokenizer, prompt)
        return cls(
            model, tokenizer, card, sampling=sampling, max_rows=max_rows, cache_tokens=cache_tokens,
            speculate=speculate, gate=gate, guards=guards,
        )  # fmt: skip

    def with_gate(self, gate: GateMode | Gate) -> Self:
        """The same corrector behind another gate: model and batch are shared, and closing one closes both.

        Raises:
            CheckpointError: a gate that the card has no calibration for.
            ConfigError: no such gate, one for weights in other bits, one without `speculate`, or one for a
                corrector of sentences.
        """
        other = copy(self)
        other.gate = self._checked(gate)
        return other

    def _checked(self, gate: GateMode | Gate) -> Gate | None:
        where = str(getattr(self.model.config, "name_or_path", "")) or "corrector"
        if gate != "off":
            self._check_unit(where)
        found = gate if isinstance(gate, Gate) else gate_of(self.card.gate, gate, where, quantize=self.quantize)
        if found is not None and not self.speculate:
            raise ConfigError("the gate decides by the pass that verifies the answer; give gate=off or speculate=true")
        return found

    def _check_unit(self, where: str = "corrector") -> None:
        if self.card.prompt.unit == "sentence":
            raise ConfigError(f"{where}: the gate decides on whole answers, and this corrector corrects sentence by "
                              "sentence; give gate=off")  # fmt: skip

    def save_pretrained(self, directory: str | Path) -> None:
        """Save weights, tokenizer and aligner.json, so that `from_pretrained` gives the same corrector."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        self.card.save(directory)

    def correct(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Correction:
        """Correct one answer. What goes wrong is told on the correction, which then keeps the original.

        Args:
            response_format: as in a request to OpenAI's API; a correction that breaks it is thrown away.

        Raises:
            DataError: the question is no chat.
            ConfigError: the response format is none.
        """
        return next(self.correct_batch([(question, answer)], sampling, response_format=response_format))

    def correct_batch(
        self,
        pairs: Iterable[tuple[Question, str]],
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Iterator[Correction]:
        """Correct many answers at once; yields in the order of `pairs`, of which only a window is in memory.

        Raises:
            DataError: a question is no chat.
            ConfigError: the response format is none.
        """
        own = sampling or self.sampling
        wanted = ResponseFormat.parse(response_format)
        return self._each(((question, answer, own) for question, answer in pairs), wanted)

    def correct_each(
        self,
        rows: Iterable[tuple[Question, str, Sampling]],
        gate: Gate | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Iterator[Correction]:
        """Correct many answers at once, each decoded in its own way, by a gate in place of this corrector's if given.

        Raises:
            DataError: a question is no chat.
            ConfigError: the response format is none, or a gate for a corrector of sentences.
        """
        if gate is not None:
            self._check_unit()
        return self._each(rows, ResponseFormat.parse(response_format), gate)

    def calibrate(self, triplets: Iterable[Triplet]) -> GateCalibration:
        """Calibrate the gate by triplets that the corrector was not trained on; it then stands in the card.

        `save_pretrained`, or the card's `save`, keeps it.

        Raises:
            DataError: too few of the triplets need a correction, or a question is no chat.
        """
        from aligner.correct.calibrate import calibration

        if self.card.prompt.unit == "sentence":
            raise DataError("the gate decides on whole answers, and this corrector corrects sentence by sentence")
        found = calibration(self, triplets)
        self.card = replace(self.card, gate=found)
        return found

    def _each(
        self,
        rows: Iterable[tuple[Question, str, Sampling]],
        wanted: ResponseFormat | None = None,
        gate: Gate | None = None,
    ) -> Iterator[Correction]:
        if self.card.prompt.unit == "sentence":
            return self._by_sentences(rows, wanted)
        jobs, gate = self._jobs(), gate or self.gate
        return jobs.corrections(jobs.job(as_chat(q), answer, own, wanted, gate) for q, answer, own in rows)

    def _by_sentences(
        self, rows: Iterable[tuple[Question, str, Sampling]], wanted: ResponseFormat | None
    ) -> Iterator[Correction]:
        async def finished(question: Question, answer: str, own: Sampling) -> Correction:
            return await self._session(question, own, wanted, ahead=False).finish(answer)

        return in_order((finished(*row) for row in rows), 2 * self._loop.max_rows)

    async def acorrect(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Correction:
        """Correct one answer without blocking; calls that overlap share the model's batch."""
        session = self._session(question, sampling, ResponseFormat.parse(response_format), ahead=False)
        return await session.finish(answer)

    def open(
        self,
        question: Question,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Session | SentenceSession:
        """Begin the correction of an answer that is still being written: push its text as it comes.

        Raises:
            DataError: the question is no chat.
            ConfigError: the response format is none.
            GenerationError: the corrector is closed.
        """
        return self._session(question, sampling, ResponseFormat.parse(response_format), ahead=True)

    async def stream(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Delta]:
        """The correction as it is written. Leaving the iteration early cancels it.

        As `Session.stream`, with nothing read ahead.
        """
        session = self._session(question, sampling, ResponseFormat.parse(response_format), ahead=False)
        async with closing(session.stream(answer)) as deltas:
            async for delta in deltas:
                yield delta

    def close(self) -> None:
        """Stop the loop and give its memory back; the corrector cannot be used afterwards."""
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _session(
        self, question: Question, sampling: Sampling | None, wanted: ResponseFormat | None, *, ahead: bool
    ) -> Session | SentenceSession:
        chat = as_chat(question)
        sampling = sampling or self.sampling
        if self.card.prompt.unit == "sentence":
            jobs = self._jobs(GuardPolicy.none())  # the session asks them itself, with the whole answer
            return SentenceSession(
                chat, loop=self._loop, guards=self.guards, wanted=wanted,
                job=lambda sentence, prefix, behind: jobs.job(
                    chat, sentence, sampling, gate=self.gate, prefix=prefix, behind=behind
                ),
                settle=lambda job, ticket: jobs.settle(job, ticket).completion,
                known=lambda prefix: self._known(chat, prefix),
            )  # fmt: skip
        jobs = self._jobs()
        return Session(
            chat, loop=self._loop, codec=self.codec, prompt=self.card.prompt, context=self.context,
            job=lambda answer: jobs.job(chat, answer, sampling, wanted, self.gate), settle=jobs.settle,
            guards=self.guards, ahead=ahead,
        )  # fmt: skip

    def _known(self, chat: Chat, prefix: str) -> tuple[int, ...]:
        """What can be read before a sentence is there; nothing where the oldest turns will be left out."""
        if self.codec.exceeds(question_text(chat), self.context):
            return ()
        return self.card.prompt.encode_open(self.codec, chat, prefix)[: self.context - 1]

    def _jobs(self, guards: GuardPolicy | None = None) -> Jobs:
        return Jobs(
            loop=self._loop, codec=self.codec, prompt=self.card.prompt, context=self.context, stop_ids=self._stop_ids,
            guards=guards or self.guards, speculate=self.speculate,
        )  # fmt: skip
