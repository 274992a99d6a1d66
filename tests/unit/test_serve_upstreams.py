"""What passes between gateway and upstream, on real sockets: replies of every shape, broken ones, uploads, headers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from aligner.errors import ConfigError
from tests.serving import Call, RuleCorrector, chat_reply, standing

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ASK = {"model": "m", "messages": [{"role": "user", "content": "Say it."}]}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nTrailer: 1\r\n\r\n"


async def unused(call: Call) -> None:
    raise AssertionError("another upstream is asked")


@contextmanager
def raw(handler: Handler, **settings: Any) -> Iterator[tuple[str, list[int]]]:
    """A gateway before a server that reads and writes bytes; the list counts its connections."""
    connections: list[int] = []
    ready, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        running = await asyncio.start_server(serve, "127.0.0.1", 0)
        found.update(port=running.sockets[0].getsockname()[1], loop=asyncio.get_running_loop())
        ready.set()
        async with running:
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait()
    try:
        with standing(unused, upstream=(f"http://127.0.0.1:{found['port']}/v1",), **settings) as stand:
            yield stand.url, connections
    finally:
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join()


def saying(*replies: bytes) -> Handler:
    """Answers requests without a body, one reply each, and closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await writer.drain()

    return handler


def got(url: str, method: str = "GET") -> tuple[int, bytes]:
    reply = httpx2.request(method, url + "/x?y=1", timeout=20)
    return reply.status_code, reply.content


def test_a_connection_is_used_again() -> None:
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    with raw(saying(OK, CHUNKED, empty, early + OK)) as (url, connections):
        assert [got(url) for _ in range(4)] == [(200, b"ok"), (201, b"abc"), (204, b""), (200, b"ok")]
        assert len(connections) == 1


@pytest.mark.parametrize(
    ("reply", "method", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", "GET", b"to the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", b""),
    ],
)
def test_every_shape_of_reply_passes(reply: bytes, method: str, body: bytes) -> None:
    with raw(saying(reply)) as (url, _):
        assert [got(url, method) for _ in range(2)] == [(200, body)] * 2


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-OpenSSH\r\n"])
def test_a_reply_that_does_not_begin_is_told(reply: bytes) -> None:
    with raw(saying(reply)) as (url, _):
        found = httpx2.get(url + "/x", timeout=20)
        assert (found.status_code, found.json()["error"]["code"]) == (502, "upstream_unreachable")


@pytest.mark.parametrize("reply", [OK[:-1], CHUNKED[:-20]])
def test_a_reply_that_breaks_off_is_seen_to(reply: bytes) -> None:
    with raw(saying(reply)) as (url, _), pytest.raises(httpx2.RemoteProtocolError):
        got(url)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_bodies_pass_whole_in_both_directions(size: int) -> None:
    async def handler(call: Call) -> None:
        text = call.body["messages"][0]["content"] if call.path.endswith("completions") else None
        await call.reply(call.data if text is None else chat_reply(text))

    data = bytes(range(256)) * (size // 256 + 1)
    with standing(handler, RuleCorrector()) as stand:
        for body in (data, iter([data[:7], data[7:]])):
            assert httpx2.put(stand.url + "/v1/files", content=body, timeout=60).content == data
        ask = {"model": "m", "messages": [{"role": "user", "content": "x" * size}]}
        text = httpx2.post(stand.url + "/v1/chat/completions", json=ask, timeout=60).json()
    assert text["choices"][0]["message"]["content"] == "x" * size


def test_an_upload_that_is_slow_is_no_silence() -> None:
    async def handler(call: Call) -> None:
        await call.reply(call.data)

    def pieces() -> Iterator[bytes]:
        for _ in range(6):
            threading.Event().wait(0.25)
            yield b"x"

    with standing(handler, upstream_timeout=0.8) as stand:
        assert httpx2.put(stand.url + "/v1/files", content=pieces(), timeout=20).content == b"x" * 6


def test_a_client_that_waits_to_be_told_to_go_on_is_served() -> None:
    async def handler(call: Call) -> None:
        assert call.header("expect") is None
        await call.reply(call.data)

    with standing(handler) as stand:
        reply = httpx2.put(stand.url + "/v1/files", content=b"abc", headers={"expect": "100-continue"}, timeout=10)
    assert (reply.status_code, reply.content) == (200, b"abc")


def test_redirects_cookies_and_long_headers_pass_untouched() -> None:
    async def handler(call: Call) -> None:
        assert call.header("cookie") is None
        await call.reply(b"go", 302, location="/elsewhere", set_cookie="a=b", x_long="y" * 20_000)

    with standing(handler) as stand:
        with httpx2.Client() as client:
            first = client.get(stand.url + "/v1/a", timeout=10)
        assert (first.status_code, first.headers["location"], first.headers["set-cookie"]) == (302, "/elsewhere", "a=b")
        assert first.headers["x-long"] == "y" * 20_000
        httpx2.get(stand.url + "/v1/b", timeout=10)
        assert [call.path for call in stand.upstream.calls] == ["/v1/a", "/v1/b"]


@pytest.mark.parametrize("sent", ["Café".encode(), "Café".encode("latin-1")])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
def test_a_header_that_is_not_ascii_says_the_same_to_the_upstream(sent: bytes, path: str) -> None:
    async def handler(call: Call) -> None:
        await call.reply(chat_reply("fine"))

    with standing(handler) as stand:
        headers = [(b"x-title", sent), (b"content-type", b"application/json")]
        assert httpx2.post(stand.url + path, json=ASK, headers=headers, timeout=10).status_code == 200
        assert stand.upstream.calls[0].header("x-title") == "Café"


def _asked(url: str, target: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as line:
        line.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        found = b""
        while piece := line.recv(1 << 16):
            found += piece
    return found


@pytest.mark.parametrize("target", [b"*", b"@127.0.0.1:9/x", b"x"])
def test_a_target_that_is_no_path_reaches_nobody(target: bytes) -> None:
    async def handler(call: Call) -> None:
        await call.reply(b"{}")

    with standing(handler) as stand:
        assert _asked(stand.url, target).split(b" ")[1] == b"400"
        assert not stand.upstream.calls


@pytest.mark.parametrize("target", ["/v1/../a//b/./c", "/v1/a%2Fb%20c?x=%41&y=+", "//127.0.0.1:9/x"])
def test_paths_pass_as_they_are_spelt(target: str) -> None:
    async def handler(call: Call) -> None:
        await call.reply(b"{}")

    with standing(handler) as stand:
        assert _asked(stand.url, target.encode()).split(b" ")[1] == b"200"
        assert [call.path for call in stand.upstream.calls] == [target]


@pytest.mark.parametrize("listed", [5, {"id": "m"}, None, "m"])
def test_a_list_of_models_that_is_none(listed: Any) -> None:
    async def handler(call: Call) -> None:
        await call.reply({"object": "list", "data": listed})

    with standing(handler) as stand:
        reply = httpx2.get(stand.url + "/v1/models", timeout=10)
        assert (reply.status_code, reply.json()["data"]) == (200, [])


def test_who_leaves_while_models_are_listed_frees_the_upstream() -> None:
    gone = threading.Event()

    async def handler(call: Call) -> None:
        await call.gone()
        gone.set()

    with standing(handler) as stand:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(stand.url + "/v1/models", timeout=0.3)
        assert gone.wait(5)


def test_a_choice_at_a_place_that_cannot_be_is_no_failure_of_ours() -> None:
    async def handler(call: Call) -> None:
        await call.reply({"choices": [{"index": -5, "text": "beta", "finish_reason": "stop"}]})

    with standing(handler) as stand:
        ask = {"model": "m", "prompt": ["a", "b"]}
        reply = httpx2.post(stand.url + "/v1/completions", json=ask, timeout=10)
    assert (reply.status_code, reply.json()["choices"][0]["text"]) == (200, "omega")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_stream_that_never_ends_is_not_held_for_ever(path: str) -> None:
    chat = {"choices": [{"index": 0, "delta": {"content": "x" * 100}, "finish_reason": None}]}
    event = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "x" * 100}

    async def handler(call: Call) -> None:
        await call.stream([chat if "chat" in path else event] * 100, done=False)

    with standing(handler, answer_limit=3000) as stand:
        ask = {**ASK, "input": "q", "stream": True}
        reply = httpx2.post(stand.url + path, json=ask, timeout=20)
    assert "upstream_too_long" in reply.text


@pytest.mark.parametrize("streamed", [False, True])
def test_shadow_hands_through_what_it_cannot_read(streamed: bool, tmp_path: Any) -> None:
    broken = b'data: {"choices"\n\ndata: {oops\n\ndata: [DONE]\n\n' if streamed else b'{"choices": oops'

    async def handler(call: Call) -> None:
        await (call.stream([broken], done=False) if streamed else call.reply(broken))

    with standing(handler, mode="shadow", out=str(tmp_path / "shadow")) as stand:
        reply = httpx2.post(stand.url + "/v1/chat/completions", json={**ASK, "stream": streamed}, timeout=20)
    assert (reply.status_code, reply.content) == (200, broken)
    assert not stand.corrector.asked


@pytest.mark.parametrize("key", ["a\nb", "schlüssel", "  "])
def test_a_key_that_no_header_can_hold_is_refused_at_once(key: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("THEIRS", key)
    with pytest.raises(ConfigError, match="THEIRS") as caught, standing(unused, upstream_key_env=("THEIRS",)):
        pass
    assert key.strip() not in str(caught.value) or not key.strip()


def test_a_key_with_a_line_end_behind_it_is_the_key(monkeypatch: Any) -> None:
    async def handler(call: Call) -> None:
        await call.reply(json.dumps(chat_reply("fine")).encode())

    monkeypatch.setenv("THEIRS", "sk-1\n")
    with standing(handler, upstream_key_env=("THEIRS",)) as stand:
        httpx2.post(stand.url + "/v1/chat/completions", json=ASK, timeout=10)
        assert stand.upstream.calls[0].header("authorization") == "Bearer sk-1"


def test_no_upstream_is_sent_a_key_that_was_given_for_another(monkeypatch: Any) -> None:
    async def handler(call: Call) -> None:
        await call.reply(json.dumps(chat_reply("fine")).encode())

    monkeypatch.setenv("THEIRS", "sk-1")
    with standing(handler) as one, standing(handler) as two:
        addresses = (f"{one.upstream_url}/v1", f"big={two.upstream_url}/v1")
        with standing(handler, upstream=addresses, upstream_key_env=("THEIRS",)) as stand:
            for model in ("m", "big/m"):
                httpx2.post(stand.url + "/v1/chat/completions", json={**ASK, "model": model}, timeout=10)
        with standing(handler, upstream=addresses, upstream_key_env=("big=THEIRS",)) as stand:
            httpx2.post(stand.url + "/v1/chat/completions", json={**ASK, "model": "big/m"}, timeout=10)
        assert [call.header("authorization") for call in one.upstream.calls] == ["Bearer sk-1"]
        assert [call.header("authorization") for call in two.upstream.calls] == [None, "Bearer sk-1"]
    with (
        pytest.raises(ConfigError, match="every upstream has a name; give NAME=VARIABLE"),
        standing(unused, upstream=("big=http://127.0.0.1:9/v1",), upstream_key_env=("THEIRS",)),
    ):
        pass


def test_names_of_upstreams_may_hold_slashes() -> None:
    async def handler(call: Call) -> None:
        await call.reply({"object": "list", "data": [{"id": "qwen"}]} if call.method == "GET" else chat_reply("fine"))

    with standing(handler) as one, standing(handler) as two, standing(handler) as three:
        addresses = (f"org/small={one.upstream_url}/v1", f"org={two.upstream_url}/v1", f"{three.upstream_url}/v1")
        with standing(unused, upstream=addresses) as stand:
            listed = [m["id"] for m in httpx2.get(stand.url + "/v1/models", timeout=10).json()["data"]]
            assert listed == ["org/small/qwen", "org/qwen", "qwen"]
            for model in (*listed, "org/small", "organ/qwen", "org/small/"):
                httpx2.post(stand.url + "/v1/chat/completions", json={**ASK, "model": model}, timeout=10)
        asked = [[c.body["model"] for c in s.upstream.calls if c.method == "POST"] for s in (one, two, three)]
    assert asked == [["qwen", "org/small"], ["qwen", "small/"], ["qwen", "organ/qwen"]]


SECRETS = {"authorization": "Bearer mine", "cookie": "session=mine", "x-api-key": "mine", "api-key": "mine"}


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("ask", ["list", "unknown"])
def test_a_clients_key_reaches_one_upstream_where_all_are_asked(unnamed: bool, ask: str) -> None:
    async def handler(call: Call) -> None:
        if call.method == "GET":
            await call.reply({"object": "list", "data": [{"id": "m1"}]})
        else:
            await call.reply({"error": {"message": "no model hugh", "code": "model_not_found"}}, 404)

    with standing(handler) as one, standing(handler) as two:
        first = f"{one.upstream_url}/v1" if unnamed else f"small={one.upstream_url}/v1"
        with standing(unused, upstream=(first, f"big={two.upstream_url}/v1")) as stand:
            if ask == "list":
                found = httpx2.get(stand.url + "/v1/models", headers=SECRETS, timeout=10)
                assert len(found.json()["data"]) == 2
            else:
                body = {**ASK, "model": "hugh"}
                found = httpx2.post(stand.url + "/v1/chat/completions", json=body, headers=SECRETS, timeout=10)
                assert found.status_code == 404
                assert "big/m1" in found.json()["error"]["message"]
        for call in one.upstream.calls:
            assert {name: call.header(name) for name in SECRETS} == {**SECRETS, "cookie": None}
        assert two.upstream.calls, "it is asked for its models too"
        for call in two.upstream.calls:
            assert {call.header(name) for name in SECRETS} == {None}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/v1/models"])
def test_cookies_reach_no_upstream_and_keys_none_that_has_its_own(path: str, monkeypatch: Any) -> None:
    async def handler(call: Call) -> None:
        await call.reply({"data": []} if call.method == "GET" else chat_reply("fine"))

    monkeypatch.setenv("THEIRS", "sk-1")
    sent = {**SECRETS, "x-goog-api-key": "mine"}
    for settings, passing in (
        ({}, {**sent, "cookie": None}),
        ({"upstream_key_env": ("THEIRS",)}, {**dict.fromkeys(sent), "authorization": "Bearer sk-1"}),
    ):
        with standing(handler, **settings) as stand:
            method = "GET" if path == "/v1/models" else "POST"
            httpx2.request(method, stand.url + path, json=None if method == "GET" else ASK, headers=sent, timeout=10)
            call = stand.upstream.calls[0]
            assert {name: call.header(name) for name in sent} == passing


def test_a_silent_upstream_holds_no_list_up(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("aligner.serve.upstreams._LISTING", 0.2)

    async def silent(call: Call) -> None:
        await call.gone()

    async def handler(call: Call) -> None:
        if call.method == "GET":
            await call.reply({"data": [{"id": "m1"}]})
        else:
            await call.reply({"error": {"message": "no model hugh", "code": "model_not_found"}}, 404)

    with standing(handler) as one, standing(silent) as two:
        with standing(unused, upstream=(f"{one.upstream_url}/v1", f"big={two.upstream_url}/v1")) as stand:
            found = httpx2.get(stand.url + "/v1/models", timeout=20)
            assert [m["id"] for m in found.json()["data"]] == ["m1"]
            unknown = httpx2.post(stand.url + "/v1/chat/completions", json={**ASK, "model": "hugh"}, timeout=20)
            assert unknown.json()["error"]["message"] == "no model hugh; known: m1"
        assert caplog.text.count("the models of the upstream 'big' are left out: the upstream did not list") == 1
        # One alone has the time that its answers have.
        with standing(unused, upstream=(f"{two.upstream_url}/v1",), upstream_timeout=0.5) as stand:
            alone = httpx2.get(stand.url + "/v1/models", timeout=20)
            assert (alone.status_code, alone.json()["error"]["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ({"error": {"message": "no model hugh", "code": "model_not_found"}}, 1),
        ({"error": {"message": "Previous response 'r' not found.", "code": "previous_response_not_found"}}, 0),
        ({"detail": "Not Found"}, 0),
    ],
)
def test_models_are_listed_where_a_404_speaks_of_one(said: Any, asked: int) -> None:
    async def handler(call: Call) -> None:
        await (call.reply({"data": [{"id": "m1"}]}) if call.method == "GET" else call.reply(said, 404))

    with standing(handler) as stand:
        assert httpx2.post(stand.url + "/v1/chat/completions", json=ASK, timeout=20).status_code == 404
        assert [call.method for call in stand.upstream.calls] == ["POST", *["GET"] * asked]


def test_a_list_that_a_client_has_already_is_given_again() -> None:
    async def handler(call: Call) -> None:
        known = call.header("if-none-match") is not None
        await (call.reply(b"", 304) if known else call.reply({"object": "list", "data": [{"id": "m1"}]}))

    with standing(handler) as stand:
        found = httpx2.get(stand.url + "/v1/models", headers={"if-none-match": '"1"'}, timeout=10)
        assert (found.status_code, found.json()["data"]) == (200, [{"id": "m1"}])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"error": {"message": "The model `hugh` does not exist.", "type": "NotFoundError", "param": "model", "x": 1}},
         {"error": {"message": "The model `hugh` does not exist; known: m1, m2", "type": "NotFoundError",
                    "param": "model", "x": 1}}),
        ({"object": "error", "message": "model hugh is not here", "code": 404},
         {"object": "error", "message": "model hugh is not here; known: m1, m2", "code": 404}),
        ({"error": "model 'hugh' not found"}, {"error": "model 'hugh' not found; known: m1, m2"}),
        ({"error": {"message": "Previous response 'r' not found.", "code": "previous_response_not_found"}}, None),
        ({"detail": "Not Found: no model here"}, None),
        (b"<html>404</html>",
         {"error": {"message": "the upstream answered 404 (<html>404</html>); known models: m1, m2",
                    "type": "invalid_request_error", "param": None, "code": "upstream_not_found"}}),
    ],
)  # fmt: skip
def test_an_unknown_model_of_the_one_upstream_is_told_the_known_ones(said: Any, told: Any) -> None:
    raw = said if isinstance(said, bytes) else json.dumps(said, indent=1).encode()

    async def handler(call: Call) -> None:
        listed = {"object": "list", "data": [{"id": "m1"}, {"id": "m2"}]}
        await (call.reply(listed) if call.method == "GET" else call.reply(raw, 404, etag='"1"'))

    with standing(handler) as stand:
        for stream in (False, True):
            ask = {**ASK, "model": "hugh", "stream": stream}
            found = httpx2.post(stand.url + "/v1/chat/completions", json=ask, timeout=20)
            assert (found.status_code, found.headers.get("etag")) == (404, None if told is not None else '"1"')
            assert found.headers["x-aligner-corrected"] == "false; reason=upstream_status"
            assert found.json() == told if told is not None else found.content == raw
        off = httpx2.post(stand.url + "/v1/chat/completions", json=ASK, headers={"x-aligner": "off"}, timeout=20)
        assert (off.status_code, off.content) == (404, raw)


def test_an_unknown_model_of_a_named_upstream_is_told_those_of_all() -> None:
    async def handler(call: Call) -> None:
        if call.method == "GET":
            await call.reply({"object": "list", "data": [{"id": "m1"}]})
        else:
            await call.reply({"error": {"message": f"no model {call.body['model']}", "code": "model_not_found"}}, 404)

    with standing(handler) as one, standing(handler) as two:
        both = (f"small={one.upstream_url}/v1", f"big={two.upstream_url}/v1")
        with standing(unused, upstream=both) as stand:
            ask = {**ASK, "model": "big/hugh"}
            found = httpx2.post(stand.url + "/v1/chat/completions", json=ask, timeout=20)
    assert found.status_code == 404
    assert found.json() == {"error": {"message": "no model hugh; known: small/m1, big/m1", "code": "model_not_found"}}


def test_an_unknown_model_whose_upstream_lists_none_is_told_its_words() -> None:
    async def handler(call: Call) -> None:
        await call.reply(b'{"error":{"message":"no such model"}}', 404)

    with standing(handler) as stand:
        found = httpx2.post(stand.url + "/v1/chat/completions", json=ASK, timeout=20)
    assert (found.status_code, found.content) == (404, b'{"error":{"message":"no such model"}}')


def test_what_speaks_of_the_bytes_goes_where_they_change() -> None:
    of_body = {"etag": '"1"', "digest": "sha-256=x", "content_digest": "sha-256=:x:", "last_modified": "yesterday"}
    names = [name.replace("_", "-") for name in of_body]

    async def handler(call: Call) -> None:
        await call.reply(chat_reply(call.body["messages"][0]["content"]), **of_body)

    with standing(handler) as stand:
        for text, gone in (("a beta", True), ("fine", False)):
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            headers = {"x-aligner": "off"} if not gone else {}
            found = httpx2.post(stand.url + "/v1/chat/completions", json=body, headers=headers, timeout=20)
            assert [name in found.headers for name in names] == [not gone] * 4
