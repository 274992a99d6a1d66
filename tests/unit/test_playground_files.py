"""The playground's files: how they are served, and that every reason has words there."""

from __future__ import annotations

import re
from typing import get_args

import httpx2
import pytest

from aligner.serve.playground.files import playground_files
from aligner.types import GuardName, KeptBecause
from tests.pages import Page
from tests.serving import Call, chat_reply, standing

FILES = {"/": "text/html", "/playground/page.css": "text/css", "/playground/page.js": "text/javascript"}


async def handler(call: Call) -> None:
    await call.reply(chat_reply("beta"))


@pytest.mark.parametrize("path", list(FILES))
def test_files_come_with_headers_that_let_nothing_else_in(path: str) -> None:
    with standing(handler) as stand:
        reply = httpx2.get(stand.url + path)
        assert httpx2.head(stand.url + path).content == b""
        assert not stand.upstream.calls
    assert reply.status_code == 200
    assert reply.headers["content-type"] == f"{FILES[path]}; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().partition(" ")[::2] for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert "//" not in str(policy)


def test_with_client_keys_the_page_is_open_and_what_it_asks_for_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAY_KEYS", "one")
    with standing(handler, client_keys_env="PLAY_KEYS") as stand:
        assert {httpx2.get(stand.url + path).status_code for path in FILES} == {200}
        assert httpx2.get(f"{stand.url}/playground/settings").status_code == 401
        settings = httpx2.get(f"{stand.url}/playground/settings", headers={"authorization": "Bearer one"}).json()
    assert settings == {"gate": "off", "gates": ["off"], "best_of": 1, "max_best_of": 1}


def test_other_paths_stay_the_upstreams() -> None:
    with standing(handler) as stand:
        httpx2.post(f"{stand.url}/", json={})
        httpx2.get(f"{stand.url}/playground/other")
        assert [call.path for call in stand.upstream.calls] == ["/", "/playground/other"]


def test_the_page_has_no_markup_of_its_own_that_the_policy_refuses() -> None:
    page = Page(playground_files()["/"].data.decode())
    for element in page.elements:
        assert element["tag"] != "style"
        assert not [name for name in element["attrs"] if name == "style" or name.startswith("on")]
        assert element["tag"] != "script" or (element["attrs"]["src"] and not element["text"].strip())


def test_every_reason_has_words() -> None:
    script = playground_files()["/playground/page.js"].data.decode()
    block = script.partition("const REASONS = {")[2].partition("};")[0]
    told = set(re.findall(r"^  (\w+): \"", block, re.MULTILINE))
    kept = {*get_args(GuardName), *get_args(get_args(KeptBecause)[1])}
    ours = {"off", "share", "shadow", "structured_output", "infill", "no_question", "unseen_turns", "prefill",
            "tool_calls", "empty", "content_filter", "length", "upstream_status", "correction_failed",
            "correction_timeout", "queue_full"}  # fmt: skip
    assert len(kept) > 10
    assert told == kept | ours
