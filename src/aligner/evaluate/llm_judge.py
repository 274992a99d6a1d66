"""LLMJudge: a model behind an OpenAI-compatible address compares two answers, in both orders."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from aligner.config import nearest
from aligner.errors import ConfigError
from aligner.evaluate.judge_prompt import Choice, JudgePrompt, code_of, load_prompts, read_verdict
from aligner.generate.chat_api import Body, ChatApi, chat_body, request_key
from aligner.generate.openai import OpenAIGenerator
from aligner.generate.store import ResponseStore
from aligner.prompts import question_text
from aligner.types import Chat, Completion, Message, Sampling, Usage, Verdict, Winner, content_hash

Orders = Literal["both", "one"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: a dimension, in one order of showing. `swapped` shows the baseline as A."""

    dimension: str
    swapped: bool
    code: str
    body: Body
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a million tokens cost, in any currency."""

    input: float
    output: float

    def __post_init__(self) -> None:
        if not (0 <= self.input < math.inf and 0 <= self.output < math.inf):
            raise ConfigError(
                f"prices are {self.input} and {self.output}; give the price of a million tokens, 0 or more"
            )

    def cost(self, usage: Usage) -> float:
        return (self.input * usage.prompt_tokens + self.output * usage.completion_tokens) / 1e6


@runtime_checkable
class _Connects(Protocol):
    def connected(self) -> AbstractAsyncContextManager[Any]: ...


class LLMJudge:
    """Compares by asking a model, one request per dimension and order.

    In both orders, a verdict counts where both agree; where they do not, it is a tie that `flipped`. What has no
    verdict in one of them is unscored. In one order, who is shown first is drawn from the seed and the texts.

    Args:
        api: where the model is.
        prompts: one for each dimension.
        model: its name there.
        orders: "both", or "one" at half the price and with whatever the position does to the judge.
        sampling: how the judge writes.
        fields: laid over every request body; None leaves a field out.
        prices: of a million tokens, for the cost.
        seed: of the codes and, in one order, of the draw; None: that of the run.
    """

    def __init__(
        self,
        api: ChatApi,
        prompts: Sequence[JudgePrompt],
        *,
        model: str,
        orders: Orders = "both",
        sampling: Sampling | None = None,
        fields: Mapping[str, Any] | None = None,
        prices: Prices | None = None,
        seed: int | None = None,
    ) -> None:
        if orders not in ("both", "one"):
            raise ConfigError(f"orders is {orders!r}; give both, or one")
        self.api, self.prompts = api, {p.dimension: p for p in prompts}
        self.model, self.orders, self.prices, self.seed = model, orders, prices, seed
        self.name = self.lineage_name = model
        # What a run lends it is gone when the run ends; the next one starts from what is its own.
        self._own = (api, api.store if isinstance(api, OpenAIGenerator) else None, seed)
        self._sampling, self._fields = sampling or Sampling(max_new_tokens=1024), dict(fields or {})

    @property
    def identity(self) -> dict[str, str]:
        """What decides the verdicts beside the arguments: a hash of every prompt."""
        return {d: hashlib.sha256(p.text.encode()).hexdigest() for d, p in self.prompts.items()}

    def facts(self) -> dict[str, Any]:
        """What a report says of the judge."""
        prices = None if self.prices is None else {"input": self.prices.input, "output": self.prices.output}
        return {"model": self.model, "url": self.api.url, "orders": self.orders, "prices": prices}

    def check_dimensions(self, dimensions: Mapping[str, Sequence[str]]) -> None:
        """Told by a run before anything is asked: the dimensions of each task.

        Raises:
            ConfigError: one has no prompt, and would stay unscored.
        """
        for task, names in dimensions.items():
            for name in names:
                if name not in self.prompts:
                    raise ConfigError(f"task '{task}': the judge has no prompt for '{name}' "
                                      f"({nearest(name, list(self.prompts))}); give the task 'dimensions' that the "
                                      f"judge has, or the judge a {name}.txt in its 'prompts'")  # fmt: skip

    def cost(self, usage: Usage) -> float | None:
        """What tokens cost; None where no prices are known."""
        return None if self.prices is None else self.prices.cost(usage)

    def spent(self) -> dict[str, int]:
        """What was asked of the address since the judge was made; the answers of a batch are none of it."""
        if not isinstance(self.api, OpenAIGenerator):
            return {}
        spent = self.api.spent
        return {"asked": spent.asked, "from_store": spent.from_store, **asdict(spent.usage)}

    @property
    def own_store(self) -> ResponseStore | None:
        """The file of answers that it was made with; None where it looks into the run's."""
        return self._own[1]

    def prepare(self, *, seed: int, store: ResponseStore | None = None, api: ChatApi | None = None) -> None:
        """Told by a run before it starts: its seed and store, where the judge has none of its own; and another `api`
        to ask, such as the answers of a batch."""
        live, own_store, own_seed = self._own
        self.seed = seed if own_seed is None else own_seed
        if isinstance(live, OpenAIGenerator):
            live.store = own_store if own_store is not None else store
        self.api = live if api is None else api

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        """One verdict for every dimension that has a prompt.

        Raises:
            ConfigError, GenerationError: nothing could be judged there at all (see OpenAIGenerator).
        """
        return await self.judge_on(question, candidate, baseline, tuple(self.prompts))

    async def judge_on(self, question: Chat, candidate: str, baseline: str, dimensions: Sequence[str]) -> list[Verdict]:
        """The same for some dimensions; one without a prompt has no verdict."""
        asks = self.asks(question, candidate, baseline, dimensions)
        replies = await self._complete([ask.body for ask in asks])
        known = [d for d in dimensions if d in self.prompts]
        pairs = list(zip(asks, replies, strict=True))
        return [decide(d, [(a, r) for a, r in pairs if a.dimension == d]) for d in known]

    def asks(self, question: Chat, candidate: str, baseline: str, dimensions: Sequence[str]) -> list[Ask]:
        """The requests that a comparison takes."""
        key, asked = f"aligner-judge/{self.seed or 0}", question_text(question)
        found = []
        for dimension in dimensions:
            prompt = self.prompts.get(dimension)
            if prompt is None:
                continue
            texts = (dimension, prompt.text, asked, candidate, baseline)
            swaps: tuple[bool, ...] = (False, True)
            if self.orders == "one":
                swaps = (int(content_hash(key, "order", *texts), 16) % 2 == 1,)
            for swapped in swaps:
                a, b = (baseline, candidate) if swapped else (candidate, baseline)
                code = code_of(key, "B" if swapped else "A", *texts)
                content = prompt.fill(question=asked, answer_a=a, answer_b=b, code=code)
                message = Message(role="user", content=content)
                body = chat_body(self.model, (message,), self._sampling, self._fields)
                found.append(
                    Ask(dimension=dimension, swapped=swapped, code=code, body=body, key=request_key(self.api.url, body))
                )
        return found

    async def _complete(self, bodies: Sequence[Body]) -> list[Completion]:
        async with _connected(self.api):
            tasks = [asyncio.create_task(self.api.complete(body)) for body in bodies]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


def decide(dimension: str, replies: Sequence[tuple[Ask, Completion]]) -> Verdict:
    """What the replies to the orders of one dimension come to. One that was cut off has no verdict."""
    usage = sum((reply.usage for _, reply in replies), Usage())
    empty = Verdict(dimension=dimension, winner=None, usage=usage)
    for _, reply in replies:
        if reply.finish_reason == "error":
            return replace(empty, reason=reply.error or "the judge failed", failed=True)
    orders = tuple(_winner(_read(ask, reply), ask.swapped) for ask, reply in replies)
    if None in orders:
        _, unread = next(pair for pair, winner in zip(replies, orders, strict=True) if winner is None)
        return replace(empty, orders=orders, reason=_why_unread(unread))
    return replace(empty, winner=orders[0] if len(set(orders)) == 1 else "tie", orders=orders)


def judge(
    *,
    url: str,
    model: str,
    api_key_env: str | None = None,
    dimensions: Sequence[str] | None = None,
    prompts: str | None = None,
    orders: Orders = "both",
    temperature: float = 0.0,
    max_tokens: int | None = 1024,
    fields: Mapping[str, Any] | None = None,
    concurrency: int = 16,
    timeout: float = 120.0,
    retries: int = 6,
    prices: Mapping[str, float] | None = None,
    seed: int | None = None,
    responses: str | None = None,
) -> LLMJudge:
    """The judge of a configuration: `judge: {call: "aligner.evaluate.llm_judge:judge", arguments: {…}}`.

    Args:
        url, model, api_key_env, concurrency, timeout, retries: see OpenAIGenerator.
        dimensions: those it judges; left out, all that have a prompt.
        prompts: a directory of prompts, `<dimension>.txt`; left out, or where it lacks one, those of the package.
        orders: both, or one.
        temperature, max_tokens: of its replies.
        fields: laid over every request body; null leaves a field out.
        prices: of a million tokens: {input: X, output: X}.
        seed: of the codes; left out, the run's.
        responses: a file of answers to look in first; left out, the run's.

    Raises:
        ConfigError: an argument is wrong, a prompt is missing, or the key's environment variable is not set.
    """
    if prices is not None and set(prices) != {"input", "output"}:
        raise ConfigError(f"prices has {', '.join(prices) or 'nothing'}; give input and output, per million tokens")
    api = OpenAIGenerator(
        url, model, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries,
        store=ResponseStore(responses) if responses is not None else None,
    )  # fmt: skip
    return LLMJudge(
        api,
        load_prompts(prompts, dimensions),
        model=model,
        orders=orders,
        sampling=Sampling(temperature=temperature, max_new_tokens=max_tokens),
        fields=fields,
        prices=Prices(**prices) if prices is not None else None,
        seed=seed,
    )


def _read(ask: Ask, reply: Completion) -> Choice | None:
    # What a cut reply says last may be a draft, or what it was about to take back.
    return None if reply.finish_reason == "length" else read_verdict(reply.text, ask.code)


def _winner(choice: Choice | None, swapped: bool) -> Winner | None:
    if choice is None or choice == "Equal":
        return None if choice is None else "tie"
    return "candidate" if (choice == "A") != swapped else "baseline"


def _why_unread(reply: Completion) -> str:
    end = " ".join(reply.text.split())[-80:]
    cut = "the reply was cut off" if reply.finish_reason == "length" else "the reply has no verdict line"
    return f"{cut}; it ends with {end!r}"


@asynccontextmanager
async def _connected(api: ChatApi) -> AsyncIterator[None]:
    if not isinstance(api, _Connects):
        yield
        return
    async with api.connected():
        yield
