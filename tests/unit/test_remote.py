"""A corrector behind an address writes what the same model writes in process."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from aligner.correct.aligner import Aligner
from aligner.correct.guards import GuardPolicy
from aligner.correct.remote import RemoteAligner
from aligner.errors import ConfigError
from aligner.types import Delta, Sampling
from tests.models import chatml_tokenizer, llama2_tokenizer, tiny_aligner
from tests.serving import Call, Upstream, serving_app

PAIRS = [("What is rice?", "A grain, and a dog."), ("Who?", "The fox.\n\nIt jumps."), ("Say hi", "hi " * 30)]
SHORT = Sampling(max_new_tokens=24)


def completing(local: Aligner) -> Any:
    """A server of the model as others write them: token ids or text in, text out, one chunk a token."""

    def ids_of(prompt: Any, body: dict[str, Any]) -> list[int]:
        if isinstance(prompt, list):
            return prompt
        add = body.get("add_special_tokens", True)
        return list(local.tokenizer(prompt, add_special_tokens=add)["input_ids"])

    async def handler(call: Call) -> None:
        if call.method == "GET":
            await call.reply({"object": "list", "data": [{"id": "served", "object": "model"}]})
            return
        body = call.body
        assert body["model"] == "served"
        prompt = ids_of(body["prompt"], body)
        with torch.inference_mode():
            out = local.model.generate(torch.tensor([prompt]), max_new_tokens=body["max_tokens"], do_sample=False,
                                       eos_token_id=body["stop_token_ids"], pad_token_id=0)  # fmt: skip
        new = out[0, len(prompt) :].tolist()
        reason = "stop" if new[-1] in body["stop_token_ids"] else "length"
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(new), "total_tokens": len(prompt) + len(new)}
        base = {"id": "c", "object": "text_completion", "created": 1, "model": "served"}
        text = local.codec.decode(new)
        if not body.get("stream"):
            choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
            await call.reply({**base, "choices": [choice], "usage": usage})
            return
        pieces = [{"index": 0, "text": c, "finish_reason": None, "logprobs": None} for c in text]
        pieces.append({"index": 0, "text": "", "finish_reason": reason, "logprobs": None})
        await call.stream([{**base, "choices": [p]} for p in pieces] + [{**base, "choices": [], "usage": usage}])

    return handler


@pytest.fixture(scope="module", params=["chat", "aligner-v1"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Aligner, RemoteAligner]]:
    tokenizer = chatml_tokenizer() if request.param == "chat" else llama2_tokenizer()
    local = tiny_aligner(tokenizer=tokenizer, prompt=request.param)
    with local, serving_app(Upstream(completing(local))) as url:
        yield local, RemoteAligner(f"{url}/v1", tokenizer, local.card, context=local.context)


def test_it_writes_what_the_model_writes(both: tuple[Aligner, RemoteAligner]) -> None:
    here, there = (list(a.correct_batch(PAIRS, SHORT)) for a in both)
    assert [c.completion.text for c in there] == [c.completion.text for c in here]
    assert [(c.text, c.kept_because) for c in there] == [(c.text, c.kept_because) for c in here]
    assert [c.completion.usage.prompt_tokens for c in there] == [c.completion.usage.prompt_tokens for c in here]


def test_text_is_sent_where_ids_are_not_taken(both: tuple[Aligner, RemoteAligner]) -> None:
    local, remote = both
    texts = RemoteAligner(remote._api.url, local.tokenizer, local.card, context=local.context, sends="text")
    here = local.correct(*PAIRS[0], SHORT)
    assert next(texts.correct_batch([PAIRS[0]], SHORT)).completion.text == here.completion.text
    name = local.tokenizer.eos_token
    refused = next(texts.correct_batch([("q", f"a {name} b")], SHORT))
    assert (refused.kept_because, refused.text) == ("error", f"a {name} b")
    assert "special token" in (refused.completion.error or "")


async def _streamed(remote: RemoteAligner, question: str, answer: str) -> list[Delta]:
    return [delta async for delta in remote.stream(question, answer, SHORT)]


def test_it_streams(both: tuple[Aligner, RemoteAligner]) -> None:
    local, remote = both
    # Random weights write foreign scripts, at which a stream would end.
    local.guards = remote.guards = GuardPolicy(script_leak="off")
    deltas = asyncio.run(_streamed(remote, *PAIRS[0]))
    here = local.correct(*PAIRS[0], SHORT)
    local.guards = remote.guards = GuardPolicy()
    assert "".join(d.text for d in deltas[:-1]) == here.completion.text
    assert (deltas[-1].finish_reason, deltas[-1].kept_because) == (here.completion.finish_reason, here.kept_because)


def test_an_answer_that_must_parse_stays_valid() -> None:
    async def handler(call: Call) -> None:
        text = '{"a": 1, "b": 2}' if "good" in call.body["prompt"] else '{"a": 1'
        reply = {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]}
        await (call.stream([reply]) if call.body.get("stream") else call.reply(reply))

    form = {"type": "json_object"}
    local = tiny_aligner(tokenizer=llama2_tokenizer(), prompt="aligner-v1")
    with local, serving_app(Upstream(handler)) as url:
        remote = RemoteAligner(f"{url}/v1", local.tokenizer, local.card, model="m", context=local.context, sends="text")

        async def both_ways(question: str) -> list[tuple[str, str | None]]:
            whole = await remote.acorrect(question, '{"a": 2}', response_format=form)
            deltas = [d async for d in remote.stream(question, '{"a": 2}', response_format=form)]
            return [(whole.text, whole.kept_because), ("".join(d.text for d in deltas), deltas[-1].kept_because)]

        assert asyncio.run(both_ways("good")) == [('{"a": 1, "b": 2}', None)] * 2
        assert asyncio.run(both_ways("bad")) == [('{"a": 2}', "broken_format")] * 2
        with pytest.raises(ConfigError, match="response_format"):
            asyncio.run(remote.acorrect("q", "a", response_format={"type": "poem"}))


def test_what_does_not_fit_is_kept(both: tuple[Aligner, RemoteAligner]) -> None:
    _, remote = both
    kept = next(remote.correct_batch([("q", "word " * 2000)]))
    assert kept.kept_because == "too_long"
    assert asyncio.run(_streamed(remote, "q", "word " * 2000))[-1].kept_because == "too_long"


def test_what_is_done_is_handed_over_before_the_rest_and_before_an_error() -> None:
    """Not one row waits for those behind it, and the first address that refuses costs none of those before."""

    async def handler(call: Call) -> None:
        answer = re.findall(r"<(.*?)>", call.body["prompt"])[-1]
        if answer == "slow":
            await asyncio.to_thread(shown.wait, 20)
        elif answer == "refused":
            await call.reply({"error": {"message": "no such key", "type": "auth", "code": "invalid_api_key"}}, 401)
            return
        await call.reply({"choices": [{"index": 0, "text": f"<{answer}>!", "finish_reason": "stop"}]})

    shown = threading.Event()
    local = tiny_aligner(tokenizer=llama2_tokenizer(), prompt="aligner-v1")
    with local, serving_app(Upstream(handler)) as url:
        remote = RemoteAligner(
            f"{url}/v1", local.tokenizer, local.card, context=local.context, model="m", sends="text", retries=0
        )
        found = remote.correct_batch([("q", f"<{name}>") for name in ("quick", "slow", "last", "refused", "never")])
        assert next(found).completion.text == "<quick>!"
        shown.set()
        assert [next(found).completion.text for _ in range(2)] == ["<slow>!", "<last>!"]
        with pytest.raises(ConfigError):
            next(found)
        assert not remote._api._links


def test_failures() -> None:
    async def broken(call: Call) -> None:
        error = {"message": "too much pepper", "type": "too much, too", "code": "spicy"}
        await (call.reply({"choices": []}) if "once" in json.dumps(call.body) else call.reply({"error": error}, 400))

    local = tiny_aligner(tokenizer=chatml_tokenizer())
    with local, serving_app(Upstream(broken)) as url:
        options: dict[str, Any] = {"context": 512, "retries": 0}
        remote = RemoteAligner(f"{url}/v1", local.tokenizer, local.card, model="once", **options)
        assert next(remote.correct_batch([("q", "a")])).kept_because == "error"
        remote = RemoteAligner(f"{url}/v1", local.tokenizer, local.card, model="m", **options)
        failed = next(remote.correct_batch([("q", "a")]))
        assert (failed.kept_because, failed.completion.error) == ("error", f"{url}/v1: status 400 (spicy)")
        remote = RemoteAligner(f"{url}/v1", local.tokenizer, local.card, model="m", quotes=True, **options)
        assert "too much pepper" in (next(remote.correct_batch([("q", "a")])).completion.error or "")
        nobody = RemoteAligner("http://127.0.0.1:9/v1", local.tokenizer, local.card, model="m", **options)
        with pytest.raises(ConfigError, match="nothing answers"):
            list(nobody.correct_batch([("q", "a")]))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_connection_that_is_lost_once_the_server_answered_fails_a_row(streamed: bool) -> None:
    async def handler(call: Call) -> None:
        reply = {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}
        await (call.stream([reply]) if call.body.get("stream") else call.reply(reply))

    local = tiny_aligner(tokenizer=chatml_tokenizer())
    with local:
        with serving_app(Upstream(handler)) as url:
            remote = RemoteAligner(f"{url}/v1", local.tokenizer, local.card, context=512, model="m", retries=0)
            if streamed:
                asyncio.run(_streamed(remote, "q", "a"))
            else:
                assert next(remote.correct_batch([("q", "a")])).text == "b"
        found = list(remote.correct_batch([("q", "a")]))
    assert [(c.text, c.kept_because) for c in found] == [("a", "error")]
    assert "the connection failed" in (found[0].completion.error or "")


async def _asked(sampling: Sampling) -> dict[str, Any]:
    bodies: list[dict[str, Any]] = []

    async def handler(call: Call) -> None:
        bodies.append(call.body)
        await call.reply({"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]})

    local = tiny_aligner(tokenizer=chatml_tokenizer())
    with local, serving_app(Upstream(handler)) as url:
        remote = RemoteAligner(f"{url}/v1", local.tokenizer, local.card, context=512, model="m")
        await remote.acorrect("q", "a", sampling)
    return bodies[0]


def test_nothing_is_left_to_the_servers_own_ways_of_decoding() -> None:
    """vLLM takes what a request leaves out from the checkpoint's generation_config.json."""
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    body = asyncio.run(_asked(Sampling()))
    assert {name: body[name] for name in neutral} == neutral
    assert body["temperature"] == 0
    body = asyncio.run(_asked(Sampling(temperature=0.7, seed=3)))
    sampled = neutral | {"top_k": -1, "top_p": 1.0, "min_p": 0.0, "temperature": 0.7, "seed": 3}
    assert {name: body[name] for name in sampled} == sampled


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"text": None, "finish_reason": "stop"}, "no completion"),
        ({"text": "half a", "finish_reason": "abort"}, "broke the correction off (finish_reason abort)"),
        ({"text": "half a", "finish_reason": "content_filter"}, "broke the correction off"),
        ({"text": "half a", "finish_reason": None}, "broke the correction off"),
    ],
)
def test_what_is_not_whole_is_no_correction(choice: dict[str, Any], says: str, streamed: bool) -> None:
    async def handler(call: Call) -> None:
        reply = {"choices": [{"index": 0, **choice}]}
        await (call.stream([reply]) if call.body.get("stream") else call.reply(reply))

    local = tiny_aligner(tokenizer=chatml_tokenizer())
    with local, serving_app(Upstream(handler)) as url:
        remote = RemoteAligner(f"{url}/v1", local.tokenizer, local.card, context=512, model="m", retries=0)
        if not streamed:
            kept = next(remote.correct_batch([("q", "the answer")]))
            assert (kept.text, kept.kept_because) == ("the answer", "error")
            assert says in (kept.completion.error or "")
        elif choice["text"] is not None:
            last = asyncio.run(_streamed(remote, "q", "the answer"))[-1]
            assert last.kept_because == "error"
            assert says in (last.error or "")
