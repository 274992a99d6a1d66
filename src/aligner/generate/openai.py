"""OpenAIGenerator: any OpenAI-compatible API as an upstream or a judge: hosted, vLLM, llama.cpp, Ollama and others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from aligner.errors import ConfigError, GenerationError
from aligner.generate.chat_api import (
    Body,
    chat_body,
    check_url,
    completion_of,
    failed,
    is_answer,
    named,
    request_key,
    usage_of,
)
from aligner.generate.collect import closing
from aligner.generate.keys import key_in
from aligner.generate.store import ResponseStore
from aligner.types import Chat, Completion, Delta, Sampling, Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# What a provider says where waiting does not help.
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")


@dataclass(slots=True, kw_only=True)
class Spent:
    """What a generator did since it was made: answers asked for, answers found in the store, tokens of the former."""

    asked: int = 0
    from_store: int = 0
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True, kw_only=True)
class _Link:
    """The connections of one event loop, open while somebody uses them."""

    client: AsyncOpenAI
    slots: asyncio.Semaphore
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    users: int = 0


class OpenAIGenerator:
    """A model behind an address that speaks OpenAI's chat completions.

    Rate limits, server errors and timeouts are tried again with growing pauses, or after the pause that the server
    asks for (Retry-After, up to two minutes); every trial of a request carries the same idempotency key.

    Args:
        url: such as http://localhost:8000/v1.
        model: its name there.
        name: how reports call it; left out, the model's name.
        api_key_env: name of the environment variable that holds the key; left out, none is sent.
        concurrency: requests under way at the same time.
        timeout: seconds without a sign of the server before a request is tried again.
        retries: how often a request is tried again.
        fields: laid over every request body; None leaves a field out.
        store: answers are looked up there before they are asked for, and kept there.
        quotes: whether errors repeat the server's words, among which may be what it was asked.

    Raises:
        ConfigError: the address is none, or the environment variable is not set or holds no key.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        name: str | None = None,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 6,
        fields: Mapping[str, Any] | None = None,
        store: ResponseStore | None = None,
        quotes: bool = True,
    ) -> None:
        if concurrency < 1 or not timeout > 0 or retries < 0:
            raise ConfigError(f"concurrency is {concurrency}, timeout {timeout} and retries {retries}; "
                              "give 1 or more, more than 0, and 0 or more")  # fmt: skip
        self.url, self.model, self.name = check_url(url), model, name or model
        self.api_key_env, self.concurrency, self.timeout, self.retries = api_key_env, concurrency, timeout, retries
        self.fields, self.store, self.quotes = dict(fields or {}), store, quotes
        self.spent = Spent()
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self.answered = False  # once it is true, a lost connection is an item's failure and not the address's
        self._key = key_in(api_key_env) if api_key_env is not None else None

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Answer every chat, each as it finishes; what a server refuses or never answers is a failed completion.

        Raises:
            ConfigError: the server knows neither the key nor the model, or nothing listens at the address.
            GenerationError: the account has no credit left.
        """
        todo = iter(range(len(chats)))
        pending: dict[asyncio.Task[Completion], int] = {}
        async with self.connected():
            try:
                while True:
                    while len(pending) < self.concurrency and (i := next(todo, None)) is not None:
                        pending[asyncio.create_task(self.complete(self.body(chats[i], sampling)))] = i
                    if not pending:
                        return
                    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    # What is answered is handed over before what stops the run is raised.
                    for task in sorted(done, key=lambda t: t.exception() is not None):
                        yield pending.pop(task), task.result()
            finally:
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)

    async def stream(self, chat: Chat, sampling: Sampling) -> AsyncIterator[Delta]:
        """The answer while it is written. A stored one comes at once; a stream that breaks ends with an error.

        Raises:
            ConfigError, GenerationError: as `generate`.
        """
        body = self.body(chat, sampling)
        key = request_key(self.url, body)
        async with self._alone(key) as link:
            stored = self._stored(key)
            if stored is not None:
                yield Delta(text=stored.text)
                yield Delta(text="", finish_reason=stored.finish_reason, usage=stored.usage, error=stored.error)
                return
            async with link.slots, closing(self._streamed(link.client, key, body)) as deltas:
                async for delta in deltas:
                    yield delta

    async def _streamed(self, client: AsyncOpenAI, key: str, body: Body) -> AsyncIterator[Delta]:
        texts: list[str] = []
        reason: str | None = None
        tokens: Any = None
        try:
            async for chunk in self._chunks(client, body):
                tokens = chunk.get("usage") or tokens
                for choice in (chunk.get("choices") or [])[:1]:
                    reason = choice.get("finish_reason") or reason
                    if text := (choice.get("delta") or {}).get("content"):
                        texts.append(text)
                        yield Delta(text=text)
        except failures() as e:
            yield Delta(text="", finish_reason="error", usage=usage_of(tokens), error=self.explain(e))
            return
        if reason is None:
            error = "the connection was closed before the answer's end"
            yield Delta(text="", finish_reason="error", usage=usage_of(tokens), error=error)
            return
        message = {"role": "assistant", "content": "".join(texts)}
        whole = {"choices": [{"message": message, "finish_reason": reason}], "usage": tokens}
        completion = self._keep(key, whole)
        yield Delta(text="", finish_reason=completion.finish_reason, usage=completion.usage, error=completion.error)

    def body(self, chat: Chat, sampling: Sampling) -> Body:
        """The request for a chat."""
        return chat_body(self.model, chat, sampling, self.fields)

    async def complete(self, body: Body) -> Completion:
        """The answer to one request, from the store where it is there. Equal requests at the same time are one.

        Raises:
            ConfigError, GenerationError: as `generate`.
        """
        key = request_key(self.url, body)
        async with self._alone(key):
            stored = self._stored(key)
            return stored if stored is not None else await self._ask(key, body)

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[_Link]:
        """The connections, while nobody else asks the same; the next one then finds the answer in the store."""
        async with self.connected() as link:
            if self.store is None:
                yield link
                return
            lock = link.locks.setdefault(key, asyncio.Lock())
            async with lock:
                yield link

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[_Link]:
        """Keep the connections of this event loop open over several calls; they close with the last one."""
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            link = self._links[loop] = _Link(client=self._client(), slots=asyncio.Semaphore(self.concurrency))
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            if not link.users:
                del self._links[loop]
                await _whole(link.client.close())

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        # Without a key of its own the client would send the one of OPENAI_API_KEY, to whatever address this is.
        key = self._key or "none"
        client = AsyncOpenAI(api_key=key, base_url=self.url, timeout=self.timeout, max_retries=self.retries)
        # So it would with what else the environment holds for OpenAI's own address, and no argument prevents it.
        client.organization = client.project = None
        client._custom_headers = {}
        return client

    def _stored(self, key: str) -> Completion | None:
        response = self.store.get(key) if self.store is not None else None
        if response is None:
            return None
        self.spent.from_store += 1
        return completion_of(response)

    def _keep(self, key: str, response: Any) -> Completion:
        completion = completion_of(response)
        self.spent.asked += 1
        self.spent.usage += completion.usage
        # An error page with status 200 is no answer, and may be another one next time.
        if self.store is not None and isinstance(response, dict) and is_answer(response):
            self.store.put(key, response)
        return completion

    async def _ask(self, key: str, body: Body) -> Completion:
        async with self.connected() as link, link.slots:
            try:
                raw = await link.client.chat.completions.with_raw_response.create(
                    **_split(body), extra_headers={"Idempotency-Key": key}
                )
            except UnicodeEncodeError:
                return failed("the question holds a lone surrogate, which no request can carry")
            except failures() as e:
                return failed(self.explain(e))
        self.answered = True
        try:
            return self._keep(key, json.loads(raw.http_response.text))
        except ValueError:
            return failed(f"the reply is no JSON: {raw.http_response.text[:200]!r}")

    async def _chunks(self, client: AsyncOpenAI, body: Body) -> AsyncIterator[dict[str, Any]]:
        stream = await client.chat.completions.create(
            **_split(body),
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"Idempotency-Key": request_key(self.url, body) + "-stream"},
        )
        self.answered = True
        async with stream:
            async for chunk in stream:
                yield chunk.model_dump()

    def explain(self, error: Exception) -> str:
        """What a failed item says; what no other item would fare better with is raised.

        Raises:
            ConfigError, GenerationError: as `generate`.
        """
        import openai

        said = self._clean(error)
        if isinstance(error, openai.APIStatusError):
            self.answered = True
        match error:
            case openai.AuthenticationError():
                advice = "check the key in" if self.api_key_env else "name the key's environment variable in"
                variable = f"{advice} {self.api_key_env or 'api_key_env'}"
                raise ConfigError(f"{self.url}: the server does not accept the key ({said}); {variable}") from None
            case openai.NotFoundError():
                raise ConfigError(f"{self.url}: no model '{self.model}' answers there ({said}); check its name and "
                                  "the address, which ends in /v1 for most servers") from None  # fmt: skip
            case openai.RateLimitError() if error.code in _NO_CREDIT or error.type in _NO_CREDIT:
                raise GenerationError(f"{self.url}: the account has no credit left ({said}); top it up") from None
            case openai.APITimeoutError():
                return f"no reply within {self.timeout:g} s, {self.retries + 1} times"
            case openai.APIConnectionError() if not self.answered:
                why = self._clean(error.__cause__ or error)
                raise ConfigError(f"{self.url}: nothing answers at this address ({why}); start the server, or correct "
                                  "the address") from None  # fmt: skip
            case openai.APIConnectionError():
                return f"the connection failed ({self._clean(error.__cause__ or error)})"
        return said

    def _clean(self, error: BaseException) -> str:
        """A server's words on one line, where they are quoted; some repeat the key that they refuse."""
        if not self.quotes:
            return named(error)
        text = " ".join(f"{error}".split()) or type(error).__name__
        return (text.replace(self._key, "…") if self._key else text)[:300]


async def _whole(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end also where the caller is cancelled meanwhile: a half-closed client leaves sockets open."""
    task = asyncio.create_task(coroutine)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def failures() -> tuple[type[Exception], ...]:
    """What the client raises where a server fails."""
    import httpx2
    import openai

    return openai.OpenAIError, httpx2.HTTPError


def _split(body: Body) -> dict[str, Any]:
    """The fields that the client knows as arguments, all others as its `extra_body`."""
    known = ("model", "messages")
    named: dict[str, Any] = {k: v for k, v in body.items() if k in known}
    return named | {"extra_body": {k: v for k, v in body.items() if k not in known}}
