"""RemoteAligner: a corrector behind an OpenAI-compatible address, such as vLLM's, with the doors of `Aligner`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from aligner.correct import outcome
from aligner.correct.aligner import Question
from aligner.correct.apart import apart, length
from aligner.correct.card import AlignerCard, checkpoint_place, load_card
from aligner.correct.guards import GuardPolicy, ResponseFormat, is_json
from aligner.errors import ConfigError, PromptError
from aligner.generate.chat_api import failed, usage_of
from aligner.generate.collect import in_order
from aligner.generate.hf import load_tokenizer, model_context
from aligner.generate.openai import OpenAIGenerator, failures
from aligner.prompts import EncodedPrompt, question_text
from aligner.tokens import TextCodec
from aligner.types import Chat, Completion, Correction, Delta, Sampling, Usage, as_chat

Sends = Literal["ids", "text"]

_FORWARDED: ContextVar[Mapping[str, str]] = ContextVar("forwarded", default=MappingProxyType({}))


@contextmanager
def forwarding(headers: Mapping[str, str]) -> Iterator[None]:
    """Send these headers along with what this task, and those that it starts, ask of a corrector behind an address."""
    token = _FORWARDED.set(headers)
    try:
        yield
    finally:
        _FORWARDED.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    chat: Chat
    answer: str
    prompt: EncodedPrompt
    body: dict[str, Any] | None  # None: it does not fit, or cannot be encoded
    error: str | None = None
    tight: bool = False  # there is less room than a copy takes


class RemoteAligner:
    """Corrects answers with a corrector that another server runs, by its `/completions`.

    Args:
        url: such as http://localhost:8001/v1.
        tokenizer: the corrector's own, with which prompts are made here.
        card: its prompt format.
        context: tokens that prompt and correction may have together.
        model: its name there; left out, the only one that is served.
        sends: "ids" hands over token ids, so that no text can be taken for a special token; vLLM and llama.cpp take
            them. "text" is for servers that do not: there, texts that hold the name of a special token are refused.
        api_key_env, concurrency, timeout, retries, quotes: as `OpenAIGenerator`.
        sampling: how corrections are decoded; greedy unless told otherwise.
        guards: what keeps the original answer, and what is only reported.

    Raises:
        ConfigError: the address is none, the key's variable is not set, or the corrector corrects sentence by sentence.
    """

    def __init__(
        self,
        url: str,
        tokenizer: Any,
        card: AlignerCard,
        *,
        context: int,
        model: str | None = None,
        sends: Sends = "ids",
        api_key_env: str | None = None,
        concurrency: int = 64,
        timeout: float = 120.0,
        retries: int = 2,
        quotes: bool = False,
        sampling: Sampling | None = None,
        guards: GuardPolicy | None = None,
    ) -> None:
        self._api = OpenAIGenerator(
            url, model or "", api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries,
            quotes=quotes,
        )  # fmt: skip
        if card.prompt.unit == "sentence":
            raise ConfigError(f"{url}: a corrector of sentences runs in process only; give its directory")
        self.card, self.context, self.sends, self.sampling = card, context, sends, sampling or Sampling()
        self.concurrency, self.guards = concurrency, guards or GuardPolicy()
        self.codec = TextCodec(tokenizer)
        self._stop_ids = sorted(card.prompt.stop_ids(self.codec))

    @classmethod
    def from_url(cls, url: str, tokenizer: str | Path, *, prompt: str | None = None, **options: Any) -> Self:
        """Reach a corrector whose checkpoint, or its tokenizer, config.json and aligner.json alone, also lies here.

        Raises:
            CheckpointError: it does not.
            ConfigError: as the class.
        """
        place = checkpoint_place(tokenizer)
        loaded = load_tokenizer(place)
        return cls(url, loaded, load_card(place, loaded, prompt), context=model_context(place), **options)

    def connected(self) -> AbstractAsyncContextManager[Any]:
        """Keep the connections open over several calls; without it each idle moment closes them."""
        return self._api.connected()

    async def acorrect(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Correction:
        """Correct one answer. What one answer fails of is told on the correction, which then keeps the original.

        Raises:
            ConfigError: the server knows neither the key nor the model, nothing listens at the address, or the response
                format is none.
            GenerationError: the account has no credit left.
        """
        wanted = ResponseFormat.parse(response_format)
        chat = as_chat(question)
        job = await apart(length(chat, answer), self._job, chat, answer, sampling)
        if job.body is None:
            return self._kept(job)
        async with self._api.connected() as link, link.slots:
            try:
                raw = await link.client.completions.with_raw_response.create(**await self._split(link, job.body))
                self._api.answered = True
                value = raw.http_response.json()
                choice = value["choices"][0]
                text, reason = choice["text"], choice.get("finish_reason")
            except failures() as e:
                return self._failed(job, self._explained(e))
            except (ValueError, LookupError, TypeError, AttributeError):
                text = reason = None
        if not isinstance(text, str):
            return self._failed(job, "the corrector's reply is no completion")
        completion = _ended(outcome.trimmed(self.card.prompt, answer, text), reason, usage_of(value.get("usage")))
        if job.tight and completion.finish_reason == "length":
            error = outcome.no_room(len(job.prompt.ids), self.context)
            return outcome.kept(job.chat, job.answer, job.prompt, replace(completion, error=error), "too_long")
        return await self._finished(job, completion, wanted)

    async def stream(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Delta]:
        """The correction as it is written; as `Aligner.stream`. Leaving the iteration early closes the connection.

        Raises:
            ConfigError, GenerationError: as `acorrect`.
        """
        wanted = ResponseFormat.parse(response_format)
        chat = as_chat(question)
        job = await apart(length(chat, answer), self._job, chat, answer, sampling)
        if job.body is None or job.tight or wanted is not None or is_json(answer):  # as Aligner.stream does
            kept = await self.acorrect(question, answer, sampling, response_format=response_format)
            yield Delta(text=kept.text)
            yield outcome.last(kept)
            return
        texts: list[str] = []
        reason: str | None = None
        usage: Any = None
        broken: str | None = None
        watch = await apart(length(chat, answer), outcome.ScriptWatch, chat, answer, self.guards)
        async with self._api.connected() as link, link.slots:
            try:
                fields = await self._split(link, job.body)
                fields["extra_body"]["stream_options"] = {"include_usage": True}
                stream = await link.client.completions.create(**fields, stream=True)
                self._api.answered = True
                async with stream:
                    async for chunk in stream:
                        value = chunk.model_dump()
                        usage = value.get("usage") or usage
                        for choice in (value.get("choices") or [])[:1]:
                            reason = choice.get("finish_reason") or reason
                            text = choice.get("text") or ""
                            text = text if texts else outcome.trimmed(self.card.prompt, answer, text)
                            if watch.leaks(text):
                                yield Delta(text="" if texts else answer)
                                seen = Completion(text="", finish_reason="cancelled", usage=usage_of(usage))
                                yield outcome.last(outcome.kept(job.chat, answer, job.prompt, seen, "script_leak"))
                                return
                            if text:
                                texts.append(text)
                                yield Delta(text=text)
            except failures() as e:
                broken = self._explained(e)
        used = usage_of(usage)
        whole = _ended("".join(texts), reason, used) if broken is None else failed(broken, used)
        done = await self._finished(job, whole, wanted)
        if done.kept_because is not None and not texts:
            yield Delta(text=done.text)
        yield outcome.last(done)

    def correct_batch(
        self, pairs: Iterable[tuple[Question, str]], sampling: Sampling | None = None
    ) -> Iterator[Correction]:
        """Correct many answers, some at a time; yields in the order of `pairs`, each once it and all before are done.

        Raises:
            DataError: a question is no chat.
            ConfigError, GenerationError: as `acorrect`.
        """
        # So many that one long answer does not leave the server idle before those behind it are asked for.
        ahead = 8 * self.concurrency
        return in_order((self.acorrect(q, answer, sampling) for q, answer in pairs), ahead, self._api.connected())

    def close(self) -> None:
        """Nothing is held here; connections close with `connected`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _job(self, chat: Chat, answer: str, sampling: Sampling | None) -> _Job:
        sampling, form = sampling or self.sampling, self.card.prompt
        try:
            likely = len(form.encode_correction(self.codec, answer)) - 1
            prompt = form.encode(self.codec, chat, answer, max_tokens=max(self.context - likely - 1, 1))
            sent = self._text(chat[prompt.dropped_turns :], answer) if self.sends == "text" else list(prompt.ids)
        except PromptError as e:
            return _Job(chat=chat, answer=answer, prompt=EncodedPrompt(ids=()), body=None, error=str(e))
        room = self.context - len(prompt.ids)
        if room < 1:
            return _Job(chat=chat, answer=answer, prompt=prompt, body=None)
        most = sampling.max_new_tokens or 2 * likely + 256
        body: dict[str, Any] = {
            "prompt": sent,
            "max_tokens": min(room, most),
            "temperature": sampling.temperature,
            "stop_token_ids": self._stop_ids,
            # What is left out, vLLM takes from the checkpoint's generation config, which may punish repetition.
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        if not sampling.greedy:
            body |= {"seed": sampling.seed, "top_p": sampling.top_p, "min_p": 0.0}
            body["top_k"] = sampling.top_k or -1  # some servers refuse 0 for all of them
        if self.sends == "text" and form.name == "chat":
            body["add_special_tokens"] = False  # the format has its own
        return _Job(chat=chat, answer=answer, prompt=prompt, body=body, tight=room < min(likely + 1, most))

    def _text(self, chat: Chat, answer: str) -> str:
        question = question_text(chat)
        if self.codec.spells_reserved(question) or self.codec.spells_reserved(answer):
            raise PromptError("the text holds the name of a special token, which a server that is sent text takes for "
                              "one; use a server that takes token ids")  # fmt: skip
        form = self.card.prompt
        return form.before + question + form.between + answer + form.after

    async def _finished(self, job: _Job, completion: Completion, wanted: ResponseFormat | None) -> Correction:
        size = length(job.chat, job.answer)  # its guards read the whole conversation
        return await apart(size, outcome.finished, job.chat, job.answer, job.prompt, completion, wanted=wanted,
                           policy=self.guards)  # fmt: skip

    def _kept(self, job: _Job) -> Correction:
        if job.error is not None:
            return self._failed(job, job.error)
        error = outcome.no_room(len(job.prompt.ids), self.context)
        return outcome.kept(job.chat, job.answer, job.prompt, failed(error), "too_long")

    def _failed(self, job: _Job, error: str) -> Correction:
        return outcome.finished(job.chat, job.answer, job.prompt, failed(error))

    def _explained(self, error: Exception) -> str:
        return f"{self._api.url}: {self._api.explain(error)}"

    async def _split(self, link: Any, body: dict[str, Any]) -> dict[str, Any]:
        """The fields that the client knows as arguments, and all others."""
        if not self._api.model:
            self._api.model = await self._only_model(link)
        named = {name: body[name] for name in ("prompt", "max_tokens", "temperature")}
        rest = {k: v for k, v in body.items() if k not in named}
        return {"model": self._api.model, **named, "extra_body": rest, "extra_headers": dict(_FORWARDED.get())}

    async def _only_model(self, link: Any) -> str:
        names = [str(model.id) async for model in link.client.models.list()]
        if len(names) != 1:
            raise ConfigError(f"{self._api.url}: serves {len(names)} models ({', '.join(names[:10])}); name the "
                              "corrector with --served-aligner")  # fmt: skip
        return names[0]


def _ended(text: str, reason: object, usage: Usage) -> Completion:
    """What a server wrote. Servers have names of their own for a good end; these are bad ones, and none at all is."""
    if reason in (None, "abort", "error", "content_filter"):
        return failed(f"the corrector's server broke the correction off (finish_reason {reason})", usage)
    return Completion(text=text, finish_reason="length" if reason == "length" else "stop", usage=usage)
