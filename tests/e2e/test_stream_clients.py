"""Streams of completions and responses as the openai client reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.serving import Call, RuleCorrector, Stand, standing
from tests.unit.test_stream_forms import completion_chunk, raw_event, response_events

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


async def _upstream(call: Call) -> None:
    if call.path == "/v1/responses":
        deltas = ("<think>beta</thi", "nk>\n", "a be", "ta") if call.body["model"] == "thinks" else ("a be", "ta")
        await call.stream([raw_event(e) for e in response_events(*deltas)])
    else:
        made = [completion_chunk("a "), completion_chunk("beta"), completion_chunk("", "stop")]
        counted = {**completion_chunk(""), "choices": [], "usage": USAGE}
        await call.stream([*made, counted] if call.body.get("stream_options") else made)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with standing(_upstream) as found:
        yield found


def test_a_stream_of_completions(stand: Stand) -> None:
    with openai.OpenAI(base_url=f"{stand.url}/v1", api_key="k", max_retries=0) as client:
        found = list(
            client.completions.create(model="m", prompt="q", stream=True, stream_options={"include_usage": True})
        )
    assert "".join(c.choices[0].text for c in found if c.choices) == "a omega"
    assert [c.choices[0].finish_reason for c in found if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert found[-1].usage is not None
    assert found[-1].usage.total_tokens == 3
    assert found[-1].usage.model_extra is not None
    assert found[-1].usage.model_extra["aligner"]["total_tokens"] == 4


@pytest.mark.parametrize("model", ["m", "thinks"])
def test_a_stream_of_a_response(stand: Stand, model: str) -> None:
    wanted = "<think>beta</think>\na omega" if model == "thinks" else "a omega"
    with openai.OpenAI(base_url=f"{stand.url}/v1", api_key="k", max_retries=0) as client:
        found = list(client.responses.create(model=model, input="q", stream=True))
        assert "".join(e.delta for e in found if e.type == "response.output_text.delta") == wanted
        assert [e.text for e in found if e.type == "response.output_text.done"] == [wanted]
        assert [e.sequence_number for e in found] == list(range(len(found)))
        assert found[-1].type == "response.completed"
        assert found[-1].response.output_text == wanted
        with client.responses.stream(model=model, input="q") as stream:  # it puts the pieces together itself
            assert stream.get_final_response().output_text == wanted


def test_an_async_stream_of_a_response(stand: Stand) -> None:
    async def read() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{stand.url}/v1", api_key="k", max_retries=0) as client:
            return [e async for e in await client.responses.create(model="m", input="q", stream=True)]

    found = asyncio.run(read())
    assert found[-1].response.output_text == "a omega"


def test_errors_of_streams() -> None:
    with (
        standing(_upstream, RuleCorrector(fails=True)) as stand,
        openai.OpenAI(base_url=f"{stand.url}/v1", api_key="k", max_retries=0) as client,
    ):
        last = list(client.responses.create(model="m", input="q", stream=True))[-1]
        assert last.type == "error"
        assert (last.code, last.param) == ("correction_failed", None)
        assert "corrector failed" in last.message
        with pytest.raises(openai.APIError, match="corrector failed"):
            list(client.completions.create(model="m", prompt="q", stream=True))
