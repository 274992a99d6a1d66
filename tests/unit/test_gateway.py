"""The gateway over loopback: what passes, what is corrected, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import time
from socket import gethostname
from typing import Any

import httpx2
import pytest

from aligner.errors import ConfigError, RequestError
from aligner.report.render import render_run
from aligner.runs import RunDir
from aligner.serve.headers import Door
from tests.serving import Call, RuleCorrector, chat_chunk, chat_reply, chat_stream, standing

ASK = {"model": "m", "messages": [{"role": "user", "content": "Say it."}]}
CHAT = "/v1/chat/completions"


def post(url: str, body: Any, path: str = CHAT, **headers: str) -> httpx2.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return httpx2.post(url + path, content=data, headers=sent, timeout=20)


def answering(*texts: str | None, **more: Any) -> Any:
    async def handler(call: Call) -> None:
        await call.reply(chat_reply(*texts, **more))

    return handler


def chunks(response: httpx2.Response) -> list[Any]:
    lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def text_of(found: list[Any], index: int = 0) -> str:
    choices = [c for chunk in found if isinstance(chunk, dict) for c in chunk.get("choices", []) if c["index"] == index]
    return "".join(c.get("delta", {}).get("content") or c.get("text") or "" for c in choices)


def test_only_the_text_changes() -> None:
    more = {"x_unknown": {"deep": [1, 2.5, None, "é"]}, "big": 2**70}
    with standing(answering("alpha beta", **more)) as stand:
        reply = post(stand.url, {**ASK, "x_new": {"a": 1}})
        assert stand.upstream.calls[0].body == {**ASK, "x_new": {"a": 1}}
    wanted = chat_reply("alpha omega", **more)
    wanted["usage"]["aligner"] = {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert reply.json() == wanted
    assert reply.headers["x-aligner-corrected"] == "true"


def test_the_request_goes_on_byte_by_byte() -> None:
    data = b'{ "model":"m",\n "messages":[{"role":"user","content":"caf\\u00e9"}], "temperature": 1.10}'
    with standing(answering("beta")) as stand:
        post(stand.url, data)
        assert stand.upstream.calls[0].data == data


def test_every_choice_is_corrected_and_tool_calls_stay() -> None:
    async def handler(call: Call) -> None:
        value = chat_reply("beta one", "two", None, "beta three")
        tools = [{"id": "t", "type": "function", "function": {"name": "beta", "arguments": "{}"}}]
        value["choices"][2]["message"]["tool_calls"] = tools
        value["choices"][3]["message"]["tool_calls"] = tools
        await call.reply(value)

    with standing(handler) as stand:
        got = post(stand.url, {**ASK, "n": 4}).json()["choices"]
        assert [c["message"]["content"] for c in got] == ["omega one", "two", None, "beta three"]
        assert got[2]["message"]["tool_calls"][0]["function"]["name"] == "beta"
        assert len(stand.corrector.asked) == 2


def test_reasoning_is_neither_corrected_nor_shown() -> None:
    async def handler(call: Call) -> None:
        value = chat_reply("<think>beta or not</think>\n\nbeta", "maybe beta\n</think>\n\nso beta", "<think>cut beta")
        value["choices"][0]["message"]["reasoning_content"] = "beta?"
        await call.reply(value)

    ask = {"model": "m", "messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>old secret</think>old"},
        {"role": "user", "content": "again"},
    ]}  # fmt: skip
    with standing(handler) as stand:
        got = [c["message"] for c in post(stand.url, ask).json()["choices"]]
        assert [m["content"] for m in got] == [
            "<think>beta or not</think>\n\nomega", "maybe beta\n</think>\n\nso omega", "<think>cut beta",
        ]  # fmt: skip
        assert got[0]["reasoning_content"] == "beta?"
        assert [answer for _, answer in stand.corrector.asked] == ["beta", "so beta"]
        assert "secret" not in str(stand.corrector.asked)


def test_the_conversation_is_the_question_and_images_pass() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "What"}, image, {"type": "text", "text": "is it?"}]},
    ]
    with standing(answering("beta")) as stand:
        post(stand.url, {"model": "m", "messages": messages})
        assert stand.upstream.calls[0].body["messages"] == messages
        turns = [(m.role, m.content) for m in stand.corrector.asked[0][0]]
    assert turns == [("system", "Be kind."), ("user", "What\nis it?")]


def test_content_parts_and_logprobs() -> None:
    async def handler(call: Call) -> None:
        value = chat_reply("x")
        parts = [{"type": "text", "text": "beta"}, {"type": "image", "data": "beta"}]
        value["choices"][0]["message"]["content"] = parts
        value["choices"][0]["logprobs"] = {"content": [{"token": "beta"}]}
        await call.reply(value)

    with standing(handler) as stand:
        choice = post(stand.url, ASK).json()["choices"][0]
    assert choice["message"]["content"] == [{"type": "text", "text": "omega"}, {"type": "image", "data": "beta"}]
    assert choice["logprobs"] is None
    assert choice["aligner"] == {"removed": ["logprobs"]}


def test_logprobs_stay_where_the_text_does() -> None:
    async def handler(call: Call) -> None:
        value = chat_reply("fine")
        value["choices"][0]["logprobs"] = {"content": [{"token": "fine"}]}
        await call.reply(value)

    with standing(handler) as stand:
        choice = post(stand.url, ASK).json()["choices"][0]
    assert choice["logprobs"] == {"content": [{"token": "fine"}]}
    assert "aligner" not in choice


@pytest.mark.parametrize("way", ["body", "header"])
def test_the_extension(way: str) -> None:
    body = {**ASK, "aligner": {"return": True}} if way == "body" else ASK
    headers = {"x_aligner": "return"} if way == "header" else {}
    with standing(answering("a beta")) as stand:
        got = post(stand.url, body, **headers).json()["choices"][0]["aligner"]
        assert "aligner" not in stand.upstream.calls[0].body
        assert stand.upstream.calls[0].header("x-aligner") is None
    took = got.pop("seconds")
    assert took["upstream"] > 0
    assert took["corrector"] >= 0
    assert got == {"original": "a beta", "diff": [["equal", "a "], ["delete", "beta"], ["insert", "omega"]],
                   "reason": None, "flags": [], "gate": None}  # fmt: skip


@pytest.mark.parametrize("way", ["body", "header"])
def test_off_hands_the_bytes_through(way: str) -> None:
    raw = json.dumps(chat_reply("a beta"), indent=3).encode()

    async def handler(call: Call) -> None:
        await call.reply(raw, x_request_id="7")

    body = {**ASK, "aligner": {"off": True}} if way == "body" else ASK
    with standing(handler) as stand:
        reply = post(stand.url, body, **({"x_aligner": "off"} if way == "header" else {}))
    assert reply.content == raw
    assert reply.headers["x-aligner-corrected"] == "false; reason=off"
    assert reply.headers["x-request-id"] == "7"
    assert not stand.corrector.asked


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strength": 0.5}, "dial"),
        ({"best_of": 4}, "scorer"),
        ({"best_of": 0}, "1 or more"),
        ({"best_of": None}, "1 or more"),
        ({"gate": "loose"}, "off, balanced, strict"),
        ({"gate": "strict"}, "calibrated"),
        ({"retrun": True}, "did you mean 'return'?"),
        ({"return": ["all"]}, "original, diff, reason"),
        ("off", "object"),
        ({"off": "yes"}, "true or false"),
    ],
)
def test_wrong_options(options: Any, says: str) -> None:
    with standing(answering("beta")) as stand:
        reply = post(stand.url, {**ASK, "aligner": options})
        assert not stand.upstream.calls
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"messages": NaN}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"model": "m"}', "missing_messages"),
        (b'{"model": "m", "messages": []}', "missing_messages"),
        (b'{"model": 3, "messages": [{}]}', "invalid_model"),
    ],
)
def test_bad_requests(data: bytes, code: str) -> None:
    with standing(answering("beta")) as stand:
        reply = post(stand.url, data)
        assert not stand.upstream.calls
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == code


def test_a_body_over_the_limit() -> None:
    def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 100

    with standing(answering("beta"), body_limit=1000) as stand:
        assert post(stand.url, b"x" * 1001).json()["error"]["code"] == "body_too_long"
        streamed = httpx2.post(stand.url + CHAT, content=pieces(), timeout=20)
        proxied = httpx2.post(stand.url + "/v1/files", content=pieces(), timeout=20)
    assert streamed.status_code == proxied.status_code == 413


def test_models_are_routed_and_unknown_ones_listed() -> None:
    async def first(call: Call) -> None:
        if call.method == "GET":
            await call.reply({"object": "list", "data": [{"id": "m1", "object": "model", "x": 1}]})
        else:
            await call.reply(chat_reply(f"beta {call.body['model']} first"))

    async def second(call: Call) -> None:
        if call.method == "GET":
            await call.reply({"object": "list", "data": [{"id": "big"}, {"id": "org/m2"}]})
        else:
            await call.reply(chat_reply(f"beta {call.body['model']} second"))

    def said(url: str, model: str) -> str:
        return str(post(url, {**ASK, "model": model}).json()["choices"][0]["message"]["content"])

    with standing(first) as one, standing(second) as two:
        both = (f"small={one.upstream_url}/v1", f"big={two.upstream_url}/v1")
        with standing(first, upstream=both) as stand:
            listed = httpx2.get(stand.url + "/v1/models").json()
            assert said(stand.url, "small/m1") == "omega m1 first"
            assert said(stand.url, "big") == "omega big second"
            assert said(stand.url, "big/org/m2") == "omega org/m2 second"
            unknown = post(stand.url, {**ASK, "model": "hugh"})
        with standing(first, upstream=(f"{one.upstream_url}/v1", f"big={two.upstream_url}/v1")) as stand:
            assert said(stand.url, "anything") == "omega anything first"
    assert [m["id"] for m in listed["data"]] == ["small/m1", "big", "big/org/m2"]
    assert listed["data"][0]["x"] == 1
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert all(name in unknown.json()["error"]["message"] for name in ("hugh", "small/m1", "big/org/m2"))


def test_errors_of_the_upstream_pass() -> None:
    raw = b'{"error": {"message":  "slow down", "code": "rate_limit"}}'

    async def handler(call: Call) -> None:
        await call.reply(raw, 429, retry_after="7")

    with standing(handler) as stand:
        reply = post(stand.url, ASK)
    assert (reply.status_code, reply.content, reply.headers["retry-after"]) == (429, raw, "7")


@pytest.mark.parametrize("body", [b"{", b"", b"<html>", b"[]"])
def test_a_reply_that_is_no_json(body: bytes) -> None:
    async def handler(call: Call) -> None:
        await call.reply(body)

    with standing(handler) as stand:
        reply = post(stand.url, ASK)
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "upstream_invalid"


def test_an_upstream_that_is_not_there_or_silent() -> None:
    async def handler(call: Call) -> None:
        await call.gone()

    with standing(handler, upstream=("http://127.0.0.1:9/v1",)) as stand:
        reply = post(stand.url, ASK)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unreachable")
    with standing(handler, upstream_timeout=0.2) as stand:
        reply = post(stand.url, ASK)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")


def test_an_answer_over_the_limit() -> None:
    with standing(answering("beta" * 1000), answer_limit=1000) as stand:
        assert post(stand.url, ASK).json()["error"]["code"] == "upstream_too_long"


@pytest.mark.parametrize("policy", ["error", "pass-through"])
@pytest.mark.parametrize("how", ["fails", "slow", "bug"])
def test_the_corrector_fails(policy: str, how: str) -> None:
    class Bug(RuleCorrector):
        async def acorrect(self, *_: Any) -> Any:
            raise RuntimeError("secret words")

    corrector = {"fails": RuleCorrector(fails=True), "slow": RuleCorrector(silent=5), "bug": Bug()}[how]
    with standing(answering("a beta"), corrector, on_failure=policy, correction_timeout=0.2) as stand:
        reply = post(stand.url, ASK)
    code = "correction_timeout" if how == "slow" else "correction_failed"
    assert "secret" not in reply.text
    if policy == "error":
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, code)
    else:
        assert reply.json() == chat_reply("a beta")
        assert reply.headers["x-aligner-corrected"] == f"false; reason={code}"
    assert corrector.left == (how == "slow")


def test_an_answer_that_does_not_fit() -> None:
    with standing(answering("a beta"), RuleCorrector(keeps="too_long")) as stand:
        reply = post(stand.url, ASK, x_aligner="return")
        assert reply.headers["x-aligner-corrected"] == "false; reason=too_long"
        assert reply.json()["choices"][0]["aligner"]["reason"] == "too_long"
        assert reply.json()["choices"][0]["message"]["content"] == "a beta"
    with standing(answering("a beta"), RuleCorrector(keeps="too_long"), strict=True) as stand:
        reply = post(stand.url, ASK)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "answer_too_long")


async def _many(url: str, count: int) -> list[httpx2.Response]:
    async with httpx2.AsyncClient(timeout=20) as client:
        return await asyncio.gather(*(client.post(url + CHAT, json=ASK) for _ in range(count)))


@pytest.mark.parametrize(
    ("limits", "code"), [({"max_requests": 2}, "too_many_requests"), ({"max_waiting": 2}, "queue_full")]
)
def test_queues_are_bounded(limits: dict[str, int], code: str) -> None:
    with standing(answering("a beta"), RuleCorrector(silent=0.3), **limits) as stand:
        replies = asyncio.run(_many(stand.url, 6))
        assert stand.corrector.most <= 2
    refused = [r for r in replies if r.status_code == 429]
    assert len(refused) == 4
    assert {r.json()["error"]["code"] for r in refused} == {code}
    assert all(int(r.headers["retry-after"]) >= 1 for r in refused)


def test_client_keys_and_the_upstreams_key(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CLIENTS", "one, two")
    monkeypatch.setenv("THEIRS", "upstream-key")
    (tmp_path / "keys").write_text("three\n\n", encoding="utf-8-sig")  # with the mark that some editors put first
    keys = {"client_keys_env": "CLIENTS", "client_keys_file": str(tmp_path / "keys")}
    with standing(answering("beta"), **keys, upstream_key_env=("THEIRS",)) as stand:
        for key in ("one", "two", "three"):
            assert post(stand.url, ASK, authorization=f"Bearer {key}").status_code == 200
        for wrong in ("Bearer four", "Bearer", "one", "Basic one", "Bearer on\xe9"):
            reply = httpx2.post(stand.url + CHAT, json=ASK, headers={"authorization": wrong.encode("latin-1")})
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert {call.header("authorization") for call in stand.upstream.calls} == {"Bearer upstream-key"}
        assert httpx2.get(stand.url + "/metrics").status_code == 401
        assert httpx2.get(stand.url + "/health").status_code == 200
    with standing(answering("beta"), **keys) as stand:
        post(stand.url, ASK, authorization="Bearer one")
        assert stand.upstream.calls[0].header("authorization") is None
    with standing(answering("beta")) as stand:
        post(stand.url, ASK, authorization="Bearer mine")
        assert stand.upstream.calls[0].header("authorization") == "Bearer mine"


def test_a_line_that_no_header_can_hold_is_no_clients_key(tmp_path) -> None:
    path = tmp_path / "keys"
    path.write_text("one\nschlüssel\n")
    with (
        pytest.raises(ConfigError, match="keys:2 holds characters") as caught,
        standing(answering("beta"), client_keys_file=str(path)),
    ):
        pass
    assert "schl" not in str(caught.value)


def test_pages_of_other_sites_are_kept_out() -> None:
    with standing(answering("beta"), allow_host=("friend.example",)) as stand:
        assert post(stand.url, ASK, origin="https://evil.example").status_code == 403
        assert post(stand.url, ASK, host="evil.example").status_code == 403
        assert post(stand.url, ASK, origin="null").status_code == 403
        assert post(stand.url, ASK, origin="http://localhost:3000").status_code == 200
        assert post(stand.url, ASK, origin="https://friend.example").status_code == 200


OWN = gethostname().partition(".")[0]
BROWSERS: list[dict[str, str]] = [
    {"accept-language": "de"},
    {"accept-language": "", "user-agent": "curl/8"},  # all that a page can do to hide it
]
PROGRAMS: list[dict[str, str]] = [
    {"user-agent": "OpenAI/Python 2"},
    {"user-agent": "node", "accept-language": "*", "sec-fetch-mode": "cors"},
    # A browser that came by HTTPS to a proxy, or whose page one may call from.
    {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "accept-language": "de"},
    {"accept-language": "de", "origin": "http://friend.example"},
]


@pytest.mark.parametrize(
    ("host", "known"),
    [("evil.example:8080", False), ("evil.example", False), ("[x", False), ("192.168.0.7:8080", True),
     ("[fe80::1]:8080", True), ("localhost:8080", True), ("friend.example", True), ("friend.example.", True),
     ("", True)],
)  # fmt: skip
def test_a_name_that_leads_here_lets_no_page_in(host: str, known: bool) -> None:
    """A page's own name may lead to any address, and what it asks of itself has no `Origin`."""

    def refused(door: Door, sent: dict[str, str]) -> bool:
        headers = [(name.encode(), value.encode()) for name, value in {"host": host, **sent}.items()]
        try:
            door.check(headers)
        except RequestError as e:
            return (e.status, e.code) == (403, "unknown_host")
        return False

    for bound in ("0.0.0.0", "::", "192.168.0.7", "gateway.lan"):
        door = Door((), bound, ("friend.example",))
        assert [refused(door, sent) for sent in BROWSERS] == [not known] * len(BROWSERS)
        assert not any(refused(door, sent) for sent in PROGRAMS), "they may know the host by any name"
        assert not any(
            refused(door, {**sent, "host": name}) for sent in BROWSERS for name in (bound, OWN, f"{OWN}.local")
        )
    keyed = Door(("key",), "0.0.0.0")
    assert not any(refused(keyed, {**sent, "authorization": "Bearer key"}) for sent in BROWSERS)


def preflight(url: str, origin: str, path: str = CHAT) -> httpx2.Response:
    asks = {"origin": origin, "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type"}  # fmt: skip
    return httpx2.options(url + path, headers=asks, timeout=20)


@pytest.mark.parametrize("keys", [True, False])
def test_browsers_are_told_which_pages_may_call(keys: bool, monkeypatch) -> None:
    """Whatever the upstream says of pages: by our own rules, with keys of any page and without of those let in."""
    allow = {"access_control_allow_origin": "*", "access_control_allow_credentials": "true", "vary": "Accept"}

    async def handler(call: Call) -> None:
        assert call.header("origin") is None
        await call.reply(chat_reply("beta"), **allow)

    monkeypatch.setenv("CLIENTS", "one")
    settings: Any = {"client_keys_env": "CLIENTS"} if keys else {"allow_host": ("friend.example",)}
    page, stranger = "https://friend.example:8443", "https://evil.example"
    with standing(handler, **settings) as stand:
        for path in (CHAT, "/v1/models", "/v1/files"):
            told = preflight(stand.url, page, path)
            assert (told.status_code, told.content) == (204, b"")
            assert told.headers["access-control-allow-origin"] == page
            assert told.headers["access-control-allow-methods"] == "POST"
            assert told.headers["access-control-allow-headers"] == "authorization,content-type"
            assert told.headers["vary"] == "Origin"
        assert not stand.upstream.calls
        assert preflight(stand.url, stranger).status_code == (204 if keys else 403)
        read = post(stand.url, ASK, origin=page, authorization="Bearer one")
        assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, page)
        assert (read.headers["vary"], "access-control-allow-credentials" in read.headers) == ("Accept, Origin", False)
        wrong = post(stand.url, ASK if keys else {"model": "m"}, origin=page)
        assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (401 if keys else 400, page)
        refused = post(stand.url, ASK, origin=stranger)
        seen = refused.headers.get("access-control-allow-origin")
        assert (refused.status_code, seen) == ((401, stranger) if keys else (403, None))


def test_a_request_for_options_that_no_browser_sends_ahead_is_the_upstreams() -> None:
    with standing(answering("beta"), allow_host=("friend.example",)) as stand:
        assert httpx2.options(stand.url + "/v1/files", headers={"origin": "https://friend.example"}).status_code == 200
        assert [call.method for call in stand.upstream.calls] == ["OPTIONS"]


def test_headers_pass_and_those_of_the_connection_do_not() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def handler(call: Call) -> None:
        await call.reply(chat_reply("beta"), x_request_id="9", keep_alive="timeout=5", connection="x-hop", x_hop="1")

    with standing(handler) as stand:
        reply = post(stand.url, ASK, traceparent=trace, tracestate="a=b", te="trailers", user_agent="me/1",
                     connection="keep-alive, x-private", x_private="1", accept_encoding="gzip, br")  # fmt: skip
        call = stand.upstream.calls[0]
    assert (call.header("traceparent"), call.header("tracestate")) == (trace, "a=b")
    assert (call.header("te"), call.header("x-private"), call.header("user-agent")) == (None, None, "me/1")
    assert call.header("accept-encoding") == "identity"
    assert reply.headers["x-request-id"] == "9"
    assert {"x-hop", "keep-alive"}.isdisjoint(reply.headers)


def test_other_paths_are_proxied() -> None:
    async def handler(call: Call) -> None:
        await call.reply(b"\x00" + call.data, 207, content_type="application/x-odd", content_encoding="gzip")

    with standing(handler) as stand:
        with httpx2.stream("PUT", stand.url + "/v1/files/a%2Fb?x=1&y=%20", content=b"\x01\x02") as reply:
            assert (reply.status_code, b"".join(reply.iter_raw())) == (207, b"\x00\x01\x02")
            assert reply.headers["content-encoding"] == "gzip"
        call = stand.upstream.calls[0]
        assert (call.method, call.path) == ("PUT", "/v1/files/a%2Fb?x=1&y=%20")
        with httpx2.stream("POST", stand.url + "/tokenize", content=iter([b"ab", b"cd"])) as reply:
            assert b"".join(reply.iter_raw()) == b"\x00abcd"
        assert stand.upstream.calls[1].path == "/tokenize"


@pytest.mark.parametrize(("kind", "shown"), [("web_search_call", "a omega"), ("function_call", "a beta")])
def test_an_answer_behind_a_search_is_whole_and_one_beside_a_call_is_not(kind: str, shown: str) -> None:
    async def handler(call: Call) -> None:
        part = {"type": "output_text", "text": "a beta", "annotations": []}
        message = {"type": "message", "role": "assistant", "content": [part]}
        await call.reply({"id": "r", "object": "response", "output": [{"type": kind, "id": "c"}, message]})

    with standing(handler) as stand:
        reply = post(stand.url, {"model": "m", "input": "q"}, "/v1/responses").json()
    assert reply["output"][1]["content"][0]["text"] == shown
    assert reply["output"][0] == {"type": kind, "id": "c"}


def test_completions_and_responses() -> None:
    async def handler(call: Call) -> None:
        if call.path == "/v1/completions":
            choices = [{"index": i, "text": f"{p}beta", "logprobs": None, "finish_reason": "stop"}
                       for i, p in enumerate(call.body["prompt"])]  # fmt: skip
            await call.reply({"id": "c", "object": "text_completion", "choices": choices})
        else:
            parts = [{"type": "output_text", "text": "a beta", "annotations": [{"start_index": 1}], "logprobs": []}]
            output = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "beta"}]},
                      {"type": "message", "role": "assistant", "content": parts}]  # fmt: skip
            await call.reply({"id": "r", "object": "response", "output": output, "usage": {"input_tokens": 3}})

    with standing(handler) as stand:
        ask = {"model": "m", "prompt": ["beta q ", "r "], "echo": True}
        texts = [c["text"] for c in post(stand.url, ask, "/v1/completions").json()["choices"]]
        assert texts == ["beta q omega", "r omega"]
        asked = [(q[0].content, a) for q, a in stand.corrector.asked]
        assert sorted(asked) == [("beta q ", "beta"), ("r ", "beta")]
        told = [{"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}]
        ask = {"model": "m", "input": told, "instructions": "Be brief."}
        got = post(stand.url, ask, "/v1/responses").json()
        assert [(m.role, m.content) for m in stand.corrector.asked[-1][0]] == [
            ("system", "Be brief."),
            ("user", "Why?"),
        ]
    assert got["output"][0]["summary"][0]["text"] == "beta"
    part = got["output"][1]["content"][0]
    assert part == {"type": "output_text", "text": "a omega", "annotations": [], "logprobs": [],
                    "aligner": {"removed": ["annotations"]}}  # fmt: skip
    assert got["usage"]["aligner"]["total_tokens"] == 4


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"response_format": {"type": "json_object"}}, "structured_output"),
        ({"guided_json": {"type": "object"}}, "structured_output"),
        ({"regex": "a (alpha|beta)"}, "structured_output"),
        ({"ebnf": 'root ::= "a beta"'}, "structured_output"),
        ({"json_schema": {}}, "structured_output"),
        ({"json_schema": '{"const": "a beta"}'}, "structured_output"),
        ({"structural_tag": {"triggers": ["a"]}}, "structured_output"),
        ({"messages": [*ASK["messages"], {"role": "assistant", "content": "It"}]}, "prefill"),
    ],
)
def test_what_is_better_left_alone(more: dict[str, Any], reason: str) -> None:
    with standing(answering("a beta")) as stand:
        reply = post(stand.url, {**ASK, **more})
        assert reply.json() == chat_reply("a beta")
        assert reply.headers["x-aligner-corrected"] == f"false; reason={reason}"


def test_fields_for_a_form_that_ask_for_none_change_nothing() -> None:
    with standing(answering("a beta")) as stand:
        ask = {**ASK, "regex": None, "ebnf": "", "json_schema": None, "guided_choice": []}
        assert post(stand.url, ask).json()["choices"][0]["message"]["content"] == "a omega"
        assert post(stand.url, {**ASK, "structured_outputs": {}}).headers["x-aligner-corrected"] == "true"
        assert post(stand.url, {**ASK, "json_schema": {}}).headers["x-aligner-corrected"] != "true", "any JSON"


def test_a_share_is_the_same_each_time() -> None:
    bodies = [{**ASK, "user": str(i)} for i in range(60)]
    with standing(answering("a beta"), share=0.3, seed=5) as stand:
        runs = [[post(stand.url, b).headers["x-aligner-corrected"] == "true" for b in bodies] for _ in range(2)]
    assert runs[0] == runs[1]
    assert 6 <= sum(runs[0]) <= 32  # 18 expected; either bound is more than three standard deviations off


def test_shadow_returns_the_original_at_once_and_records(tmp_path) -> None:
    raw = json.dumps(chat_reply("a beta")).encode()

    async def handler(call: Call) -> None:
        await (call.stream(chat_stream("b beta")) if call.body.get("stream") else call.reply(raw))

    out = tmp_path / "shadow"
    with standing(handler, RuleCorrector(silent=0.5), mode="shadow", out=str(out)) as stand:
        began = time.monotonic()
        reply = post(stand.url, ASK, authorization="Bearer very-secret")
        streamed = post(stand.url, {**ASK, "stream": True})
        assert time.monotonic() - began < 0.4
        assert reply.content == raw
        assert chunks(streamed) == [*chat_stream("b beta"), "[DONE]"]
        assert reply.headers["x-aligner-corrected"] == "false; reason=shadow"
        assert "aligner_upstream_seconds_count 2.0" in httpx2.get(stand.url + "/metrics").text.splitlines()
        time.sleep(1)
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {(r["answer"], r["correction"]) for r in rows} == {("a beta", "a omega"), ("b beta", "b omega")}
    assert "very-secret" not in "".join(p.read_text() for p in out.iterdir())
    page = render_run(RunDir.open(out)).read_text(encoding="utf-8")
    assert "Shadow run" in page
    assert "recorded 2 answers in shadow mode" in page


def test_metrics() -> None:
    with standing(answering("a beta", "fine")) as stand:
        post(stand.url, ASK)
        page = httpx2.get(stand.url + "/metrics").text
    for line in (
        'aligner_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0',
        'aligner_answers_total{outcome="changed"} 1.0',
        'aligner_answers_total{outcome="copied"} 1.0',
        "aligner_edit_ratio_sum 0.5",
        'aligner_corrector_tokens_total{kind="prompt"} 3.0',
        "aligner_queue_depth 0.0",
    ):
        assert line in page.splitlines()


def test_a_stream_is_corrected_in_valid_chunks() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

    async def handler(call: Call) -> None:
        await call.stream([b": hello\n\n", *chat_stream("a beta c", reasoning_content="beta?"),
                           chat_chunk(None, usage=usage)])  # fmt: skip

    with standing(handler) as stand:
        reply = post(stand.url, {**ASK, "stream": True, "stream_options": {"include_usage": True}}, x_aligner="return")
        assert reply.text.startswith(": hello\n\n")
    found = chunks(reply)
    assert found[-1] == "[DONE]"
    assert text_of(found) == "a omega c"
    assert found[0] == chat_chunk({"role": "assistant", "content": "", "reasoning_content": "beta?"})
    assert found[-2]["usage"] == {**usage, "aligner": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}}
    last = found[-3]["choices"][0]
    assert (last["finish_reason"], last["delta"]) == ("stop", {})
    assert (last["aligner"]["original"], last["aligner"]["reason"]) == ("a beta c", None)
    assert all(c["id"] == "chatcmpl-1" and c["system_fingerprint"] == "f" for c in found[:-1])
    assert sum(c["choices"][0]["finish_reason"] is not None for c in found[:-1] if c["choices"]) == 1


def test_reasoning_and_tool_calls_of_a_stream_pass_at_once() -> None:
    pieces = ["<th", "ink>is it be", "ta</thi", "nk>\n\n", "yes be", "ta"]
    tool = {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{"}}]}

    async def handler(call: Call) -> None:
        stream = [chat_chunk({"role": "assistant", "content": ""}), *(chat_chunk({"content": p}) for p in pieces)]
        stream += [chat_chunk({"content": "say beta"}, index=1), chat_chunk(tool, index=1)]
        await call.stream([*stream, chat_chunk({}, "stop"), chat_chunk({}, "tool_calls", index=1)])

    with standing(handler) as stand:
        found = chunks(post(stand.url, {**ASK, "stream": True}))
        assert [answer for _, answer in stand.corrector.asked] == ["yes beta"]
    assert text_of(found) == "<think>is it beta</think>\n\nyes omega"
    assert text_of(found, 1) == "say beta"
    assert [c["choices"][0]["delta"] for c in found[:-1] if "tool_calls" in c["choices"][0]["delta"]] == [tool]


def test_a_streams_logprobs_go_with_a_note() -> None:
    async def handler(call: Call) -> None:
        stream = chat_stream("a beta")
        for chunk in stream[1:-1]:
            chunk["choices"][0]["logprobs"] = {"content": [{"token": "x"}]}
        await call.stream(stream)

    with standing(handler) as stand:
        found = chunks(post(stand.url, {**ASK, "stream": True}))
    assert all(c["choices"][0]["logprobs"] is None for c in found[:-1])
    assert found[-2]["choices"][0]["aligner"] == {"removed": ["logprobs"]}


def test_a_guard_that_fires_late_is_named() -> None:
    class Late(RuleCorrector):
        def _made(self, question: Any, answer: str) -> Any:
            return RuleCorrector()._made(question, answer)

    async def handler(call: Call) -> None:
        await call.stream(chat_stream("a beta"))

    with standing(handler, Late(keeps="script_leak")) as stand:
        found = chunks(post(stand.url, {**ASK, "stream": True}))
    assert text_of(found) == "a omega"
    assert found[-2]["choices"][0]["aligner"] == {"reason": "script_leak", "late": True}


@pytest.mark.parametrize("policy", ["error", "pass-through"])
def test_the_corrector_fails_in_a_stream(policy: str) -> None:
    async def handler(call: Call) -> None:
        await call.stream(chat_stream("a beta"))

    with standing(handler, RuleCorrector(fails=True), on_failure=policy) as stand:
        found = chunks(post(stand.url, {**ASK, "stream": True}))
    if policy == "error":
        assert found[-1]["error"]["code"] == "correction_failed"
        assert text_of(found) == ""
    else:
        assert (text_of(found), found[-1]) == ("a beta", "[DONE]")


@pytest.mark.parametrize("how", ["cut", "error", "garbage"])
def test_an_upstreams_stream_breaks(how: str) -> None:
    async def handler(call: Call) -> None:
        stream: list[Any] = chat_stream("a beta")[:-1]
        more = {"cut": [], "error": [{"error": {"message": "boom", "code": "x"}}], "garbage": [b"data: {oops\n\n"]}
        await call.stream([*stream, *more[how]], done=False)

    with standing(handler) as stand:
        found = chunks(post(stand.url, {**ASK, "stream": True}))
        assert not stand.corrector.asked
    code = {"cut": "upstream_broke_off", "error": "x", "garbage": "upstream_invalid"}[how]
    assert found[-1]["error"]["code"] == code
    assert text_of(found) == ""


def test_completions_stream() -> None:
    async def handler(call: Call) -> None:
        words = [{"index": 0, "text": t, "logprobs": None, "finish_reason": None} for t in ("a", " beta", "")]
        words[-1]["finish_reason"] = "stop"
        await call.stream([{"id": "c", "object": "text_completion", "choices": [w]} for w in words])

    with standing(handler) as stand:
        found = chunks(post(stand.url, {"model": "m", "prompt": "q", "stream": True}, "/v1/completions"))
    assert text_of(found) == "a omega"
    assert found[-2]["choices"][0]["finish_reason"] == "stop"


def test_responses_stream() -> None:
    part = {"type": "output_text", "text": "a beta", "annotations": []}
    item = {"id": "i", "type": "message", "role": "assistant", "content": [part]}
    done = {"id": "r", "output": [{"id": "t", "type": "reasoning"}, item], "usage": {"input_tokens": 1}}
    at = {"output_index": 1, "content_index": 0, "item_id": "i"}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r", "output": []}},
        {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "beta"},
        {"type": "response.output_item.added", "output_index": 1, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **at, "delta": "a be", "logprobs": []},
        {"type": "response.output_text.delta", **at, "delta": "ta", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "a beta", "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 1, "item": item},
        {"type": "response.completed", "response": done},
    ]

    async def handler(call: Call) -> None:
        numbered = [{**event, "sequence_number": i} for i, event in enumerate(events)]
        await call.stream([f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in numbered], done=False)

    with standing(handler) as stand:
        reply = post(stand.url, {"model": "m", "input": "q", "stream": True}, "/v1/responses")
    found = [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: ")]
    names = [line[7:] for line in reply.text.split("\n") if line.startswith("event: ")]
    assert names == [e["type"] for e in found]
    assert [e["sequence_number"] for e in found] == list(range(len(found)))
    assert [e["type"] for e in found] == [e["type"] for e in events]
    assert [e["delta"] for e in found if "delta" in e] == ["beta", "a", " omega"]
    new = {**item, "content": [{**part, "text": "a omega"}]}
    assert found[6]["text"] == "a omega"
    assert (found[7]["part"], found[8]["item"]) == (new["content"][0], new)
    assert found[9]["response"]["output"][1] == new
    assert found[9]["response"]["usage"]["aligner"]["total_tokens"] == 4


def test_a_client_that_leaves_ends_both_sides() -> None:
    gone: list[bool] = []

    async def silent(call: Call) -> None:
        await call.gone()
        gone.append(True)

    async def leave(url: str, body: dict[str, Any]) -> None:
        async with httpx2.AsyncClient() as client:
            with pytest.raises(httpx2.ReadTimeout):
                await client.post(url + CHAT, json=body, timeout=0.3)

    with standing(silent) as stand:
        asyncio.run(leave(stand.url, ASK))
        time.sleep(0.3)
        assert gone == [True]

    async def streams(call: Call) -> None:
        await call.stream(chat_stream("a beta c d e f g"))

    for body, handler in ((ASK, answering("a beta")), ({**ASK, "stream": True}, streams)):
        with standing(handler, RuleCorrector(silent=5)) as stand:
            asyncio.run(leave(stand.url, body))
            time.sleep(0.3)
            assert stand.corrector.left == 1
            assert "aligner_queue_depth 0.0" in httpx2.get(stand.url + "/metrics").text
