"""Models behind an address: what is sent, what is tried again, what is kept, and what is told."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from itertools import pairwise

import pytest

from aligner.errors import ConfigError, DataError, GenerationError
from aligner.generate.chat_api import chat_body, check_url, completion_of, request_key
from aligner.generate.collect import collect, run_sync
from aligner.generate.openai import OpenAIGenerator
from aligner.generate.store import ResponseStore
from aligner.types import Generator, Message, Sampling, Streams, Usage, as_chat
from tests.api_server import Reply, completion, refusal, serving

CHATS = [as_chat(f"question {i}?") for i in range(6)]
SECRET = "sk-very-secret-1234"


def echo(body):
    return f"answer to {body['messages'][-1]['content']}"


def generator(url, **options) -> OpenAIGenerator:
    return OpenAIGenerator(url, "served", **({"retries": 0, "timeout": 5.0} | options))


def test_answers_come_by_index_with_usage() -> None:
    with serving(echo) as api:
        made = generator(api.url + "/", name="api")
        assert isinstance(made, Generator)
        assert isinstance(made, Streams)
        found = collect(made, CHATS, Sampling(max_new_tokens=9))
        assert collect(made, []) == []
    assert [c.text for c in found] == [f"answer to question {i}?" for i in range(6)]
    assert {c.finish_reason for c in found} == {"stop"}
    assert found[0].usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert set(api.paths) == {"/v1/chat/completions"}
    assert made.spent.asked == 6
    assert made.spent.usage == Usage(prompt_tokens=42, completion_tokens=18)
    assert "max_tokens" in api.requests[0]
    assert made.name == "api"


def test_slow_answers_do_not_hold_up_quick_ones() -> None:
    def slow_first(body):
        return Reply(body=completion("x"), delay=0.3 if "question 0" in body["messages"][0]["content"] else 0.0)

    async def order(made):
        return [i async for i, _ in made.generate(CHATS, Sampling())]

    with serving(slow_first) as api:
        assert run_sync(order(generator(api.url)))[-1] == 0


def test_what_is_sent() -> None:
    chat = (Message(role="system", content="be kind"), Message(role="user", content="hi"))
    plain = chat_body("m", chat, Sampling())
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    assert plain == {"model": "m", "messages": messages, "temperature": 0.0}
    sampled = chat_body("m", chat, Sampling(temperature=0.5, top_p=0.9, top_k=4, max_new_tokens=8, seed=3))
    assert {k: v for k, v in sampled.items() if k not in plain} == {
        "seed": 3, "top_p": 0.9, "top_k": 4, "max_tokens": 8,
    }  # fmt: skip
    fields = {"max_tokens": None, "max_completion_tokens": 8, "temperature": None, "reasoning_effort": "low"}
    assert chat_body("m", chat, Sampling(max_new_tokens=8), fields) == {
        "model": "m", "messages": messages, "max_completion_tokens": 8, "reasoning_effort": "low",
    }  # fmt: skip
    with serving(echo) as api:
        collect(generator(api.url, fields=fields), [chat], Sampling(temperature=0.5, top_k=4, max_new_tokens=8))
    sent = api.requests[0]
    assert sent == {
        "model": "served", "messages": messages, "seed": 0, "top_k": 4,
        "max_completion_tokens": 8, "reasoning_effort": "low",
    }  # fmt: skip


def test_concurrency_is_bounded_and_connections_are_reused() -> None:
    with serving(lambda body: Reply(body=completion("x"), delay=0.02)) as api:
        found = collect(generator(api.url, concurrency=3), [as_chat(str(i)) for i in range(20)])
        assert len(found) == 20
        assert api.most == 3
        assert api.connections == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again_as_the_server_asks(status) -> None:
    times: list[float] = []

    def later(body):
        times.append(time.monotonic())
        return echo(body) if len(times) == 3 else refusal(status, "busy", retry_after="0.25")

    with serving(later) as api:
        found = collect(generator(api.url, retries=3), CHATS[:1])
    assert found[0].text == "answer to question 0?"
    assert all(0.25 <= b - a < 0.49 for a, b in pairwise(times)), "sooner than by itself"
    assert len({h["idempotency-key"] for h in api.headers}) == 1


def test_what_fails_to_the_end_is_an_item() -> None:
    def some(body):
        n = int(re.findall(r"\d", body["messages"][0]["content"])[0])
        return {
            0: refusal(400, "context length exceeded"),
            1: refusal(500, "out of order"),
            2: Reply(body="<html>not json</html>"),
            3: Reply(body={"detail": "odd"}),
            4: Reply(body=completion("half", "content_filter")),
        }.get(n, "fine")

    with serving(some) as api:
        found = collect(generator(api.url), CHATS)
    assert [c.finish_reason for c in found] == ["error"] * 5 + ["stop"]
    for completion_, words in zip(
        found,
        ["context length exceeded", "out of order", "the reply is no JSON: '<html>", "no chat completion: {'detail'",
         "content filter"],
        strict=False,
    ):  # fmt: skip
        assert words in completion_.error
        assert completion_.text == ""


def test_timeouts() -> None:
    with serving(lambda body: Reply(body=completion("late"), delay=0.6)) as api:
        found = collect(generator(api.url, timeout=0.1, retries=1), CHATS[:1])
    assert found[0].error == "no reply within 0.1 s, 2 times"
    assert len(api.requests) == 2


def test_a_wrong_key_stops_at_once_and_is_never_shown(monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    with serving(lambda body: refusal(401, f"Incorrect API key provided: {SECRET}")) as api:
        with pytest.raises(ConfigError) as e:
            collect(generator(api.url, api_key_env="MY_KEY", retries=5), CHATS)
        with pytest.raises(ConfigError, match="name the key's environment variable in api_key_env"):
            collect(generator(api.url), CHATS)
    assert api.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(e.value)
    assert "does not accept the key" in str(e.value)
    assert "check the key in MY_KEY" in str(e.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match="the environment variable MY_KEY is not set"):
        generator("http://localhost:1/v1", api_key_env="MY_KEY")


def test_a_key_with_a_line_end_behind_it_is_the_key(monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{SECRET}\n")
    with serving(lambda body: refusal(400, f"not with {SECRET}")) as api:
        found = collect(generator(api.url, api_key_env="MY_KEY"), CHATS[:1])
    assert api.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in found[0].error


@pytest.mark.parametrize("key", [f"{SECRET}\n{SECRET}", f"\ufeff{SECRET}", f"{SECRET}é", " \n"])
def test_what_no_header_can_hold_is_no_key(key, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ConfigError, match="MY_KEY") as e:
        generator("http://localhost:1/v1", api_key_env="MY_KEY")
    assert SECRET not in str(e.value)


def test_a_key_that_nobody_named_is_not_sent(monkeypatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"x-api-key: {SECRET}\nAuthorization: Bearer {SECRET}")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    with serving(echo) as api:
        collect(generator(api.url), CHATS[:1])
        collect(generator(api.url, api_key_env="MY_KEY"), CHATS[:1])
    assert SECRET not in str(api.headers)
    assert [headers["authorization"] for headers in api.headers] == ["Bearer none", "Bearer sk-mine"]


def test_an_unknown_model_and_an_empty_account_stop_at_once() -> None:
    said = r"no model 'served' answers there .*no such model.*ends in /v1"
    with serving(lambda body: refusal(404, "no such model")) as api, pytest.raises(ConfigError, match=said):
        collect(generator(api.url, retries=5), CHATS)
    empty = refusal(429, "pay first", "insufficient_quota", x_should_retry="false")
    with serving(lambda body: empty) as api, pytest.raises(GenerationError, match="no credit left"):
        collect(generator(api.url, retries=5), CHATS)


def test_what_is_answered_is_handed_over_before_the_run_stops() -> None:
    def dies(body):
        return echo(body) if "question 0" in body["messages"][0]["content"] else refusal(401, "revoked")

    got = []

    async def take(made):
        async for i, _ in made.generate(CHATS, Sampling()):
            got.append(i)

    with serving(dies) as api, pytest.raises(ConfigError):
        run_sync(take(generator(api.url, concurrency=1)))
    assert got == [0]


def test_an_address_where_nothing_listens() -> None:
    with serving(echo) as api:
        pass
    with pytest.raises(ConfigError, match="nothing answers at this address"):
        collect(generator(api.url), CHATS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "is no address"),
        ("ftp://x/v1", "is no address"),
        ("", "is no address"),
        ("http://[::1/v1", "is no address"),
        (f"http://me:{SECRET}@host/v1", "holds a password"),
        (f"https://host/v1?key={SECRET}", "holds a password or a query"),
    ],
)
def test_addresses_that_are_refused(url, message) -> None:
    with pytest.raises(ConfigError, match=message) as e:
        check_url(url)
    assert SECRET not in str(e.value)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"timeout": 0}, {"retries": -1}])
def test_options_out_of_range(options) -> None:
    with pytest.raises(ConfigError, match="give 1 or more"):
        generator("http://localhost/v1", **options)


def test_completions_of_odd_servers() -> None:
    assert completion_of(completion("a", None)).finish_reason == "stop"
    assert completion_of(completion("a", "length")).finish_reason == "length"
    assert completion_of(completion(None, "stop", refusal="I cannot")).text == "I cannot"
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert completion_of(completion(parts)).text == "ab"  # type: ignore[arg-type]
    assert "no text (finish_reason 'tool_calls')" in completion_of(completion(None, "tool_calls")).error
    for body in (None, [], {}, {"choices": []}, {"choices": [None]}, {"choices": [{"message": "x"}]}, "text"):
        assert completion_of(body).finish_reason == "error"
    odd = completion("a") | {"usage": {"prompt_tokens": "many", "completion_tokens": -1}}
    assert completion_of(odd).usage == Usage()


def test_streams() -> None:
    async def streamed(made, chat=CHATS[0]):
        return [d async for d in made.stream(chat, Sampling())]

    with serving(lambda body: "a longer answer") as api:
        deltas = asyncio.run(streamed(generator(api.url)))
    assert [d.text for d in deltas] == ["a", " longer", " answer", ""]
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert api.requests[0]["stream"] is True

    cut = 'data: {"id":"x","choices":[{"index":0,"delta":{"content":"ha"}}]}\n\n'
    with serving(lambda body: Reply(body=cut, headers={"content-type": "text/event-stream"})) as api:
        deltas = asyncio.run(streamed(generator(api.url)))
    assert [(d.text, d.finish_reason) for d in deltas] == [("ha", None), ("", "error")]
    with serving(lambda body: refusal(500, "no")) as api:
        assert [d.finish_reason for d in asyncio.run(streamed(generator(api.url)))] == ["error"]
    with serving(lambda body: refusal(401, "no")) as api, pytest.raises(ConfigError):
        asyncio.run(streamed(generator(api.url)))


def test_a_stream_is_kept_and_read_back(tmp_path) -> None:
    async def streamed(made):
        return "".join([d.text async for d in made.stream(CHATS[0], Sampling())])

    with serving(lambda body: "a longer answer") as api, ResponseStore(tmp_path / "r.sqlite") as store:
        made = generator(api.url, store=store)
        assert asyncio.run(streamed(made)) == "a longer answer"
        assert asyncio.run(streamed(made)) == "a longer answer"
        assert collect(made, CHATS[:1])[0].usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert len(api.requests) == 1


def test_equal_streams_at_the_same_time_are_one(tmp_path) -> None:
    async def streamed(made):
        return "".join([d.text async for d in made.stream(CHATS[0], Sampling())])

    async def together(made):
        whole = made.complete(made.body(CHATS[0], Sampling()))
        return await asyncio.gather(*(streamed(made) for _ in range(3)), whole)

    with serving(lambda body: "a longer answer") as api, ResponseStore(tmp_path / "r.sqlite") as store:
        *texts, whole = asyncio.run(together(generator(api.url, store=store)))
        assert [*texts, whole.text] == ["a longer answer"] * 4
    assert len(api.requests) == 1


def test_a_stream_that_is_left_lets_the_next_one_ask(tmp_path) -> None:
    async def left_and_asked(made):
        deltas = made.stream(CHATS[0], Sampling())
        await anext(deltas)
        await deltas.aclose()
        return "".join([d.text async for d in made.stream(CHATS[0], Sampling())])

    with serving(lambda body: "a longer answer") as api, ResponseStore(tmp_path / "r.sqlite") as store:
        assert asyncio.run(left_and_asked(generator(api.url, store=store))) == "a longer answer"
    assert len(api.requests) == 2


def test_nothing_answered_is_asked_again(tmp_path) -> None:
    broken = {"question 1?"}

    def some(body):
        question = body["messages"][0]["content"]
        return refusal(500, "no") if question in broken else f"answer to {question}"

    with serving(some) as api:
        with ResponseStore(tmp_path / "deep" / "r.sqlite") as store:
            first = collect(generator(api.url, store=store), [*CHATS, *CHATS])
            assert len(store) == 5
        assert len(api.requests) == 5 + 2, "equal requests at the same time are one; what failed is no answer"
        broken.clear()
        with ResponseStore(tmp_path / "deep" / "r.sqlite") as store:
            made = generator(api.url, store=store)
            second = collect(made, CHATS)
            assert (made.spent.asked, made.spent.from_store) == (1, 5)
            collect(generator(api.url, store=store), CHATS, Sampling(temperature=1.0))
    assert [c.text for c in second] == [f"answer to question {i}?" for i in range(6)]
    assert [c for i, c in enumerate(first[:6]) if i != 1] == [c for i, c in enumerate(second) if i != 1]
    assert len(api.requests) == 8 + 6, "another request has other answers"


@pytest.mark.parametrize(
    ("response", "asked"),
    [
        (completion(None, "length"), 1),
        (completion("half", "content_filter"), 1),
        (completion(None, "tool_calls", tool_calls=[]), 1),
        (completion(None, None), 3),  # nobody says that this is all
        (completion(None, "error"), 3),  # a router's: its provider failed
        ({"choices": [{"finish_reason": "stop"}]}, 3),
    ],
)
def test_an_answer_without_text_is_paid_once_and_read_back_as_the_same_failure(response, asked, tmp_path) -> None:
    async def streamed(made):
        return [d async for d in made.stream(CHATS[0], Sampling())][-1]

    with serving(lambda body: Reply(body=response)) as api, ResponseStore(tmp_path / "r.sqlite") as store:
        first, second = (collect(generator(api.url, store=store), CHATS[:1])[0] for _ in range(2))
        assert first == second
        assert first.finish_reason == "error"
        last = asyncio.run(streamed(generator(api.url, store=store)))
        assert last.finish_reason == "error"
        assert last.error == first.error or asked > 1
    assert len(api.requests) == asked


def test_the_key_of_a_request_is_the_whole_of_it(monkeypatch, tmp_path) -> None:
    body = chat_body("m", CHATS[0], Sampling())
    key = request_key("http://a/v1", body)
    assert key == request_key("http://a/v1", dict(reversed(body.items())))
    others = [request_key("http://b/v1", body), request_key("http://a/v1", body | {"temperature": 0.1}),
              request_key("http://a/v1", body | {"messages": []})]  # fmt: skip
    assert len({key, *others}) == 4
    monkeypatch.setenv("MY_KEY", SECRET)
    with serving(echo) as api, ResponseStore(tmp_path / "r.sqlite") as store:
        collect(generator(api.url, api_key_env="MY_KEY", store=store), CHATS)
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_one_store_for_several_threads(tmp_path) -> None:
    path = tmp_path / "r.sqlite"
    stores = [ResponseStore(path), ResponseStore(path)]

    def write(worker: int) -> None:
        for i in range(25):
            stores[worker % 2].put(f"{worker}-{i}", {"n": i, "odd": "\ud800"})
            stores[worker % 2].put("same", {"n": worker})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0]) == 101
    assert stores[1].get("3-24") == {"n": 24, "odd": "\ud800"}
    assert stores[0].get("absent") is None
    for store in stores:
        store.close()


def test_a_file_that_is_no_store(tmp_path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_text("this is no database at all, but it is long enough to be looked at as one " * 20)
    with pytest.raises(DataError, match="is no store of responses"):
        ResponseStore(path)


def test_a_question_that_no_request_can_hold() -> None:
    with serving(echo) as api:
        found = collect(generator(api.url), [as_chat("lone \ud800"), CHATS[0]])
    assert "lone surrogate" in found[0].error
    assert found[1].text


def test_leaving_early_cancels_what_is_under_way() -> None:
    async def first_only(made):
        iterator = made.generate([as_chat(str(i)) for i in range(50)], Sampling())
        async for _ in iterator:
            break
        await iterator.aclose()

    with serving(lambda body: Reply(body=completion("x"), delay=0.05)) as api:
        run_sync(first_only(generator(api.url, concurrency=2)))
        assert len(api.requests) <= 6
