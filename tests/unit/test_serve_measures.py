"""What is measured of long corrections is measured once, and not where all requests are served."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aligner import edits
from tests.serving import Call, RuleCorrector, chat_reply, chat_stream, standing
from tests.unit.test_gateway import ASK, chunks, post, text_of

MEASURES = ("edit_ratio", "copied_share", "diff")


class Loop(RuleCorrector):
    """Remembers the thread that serves."""

    thread = 0

    def _made(self, question: Any, answer: str) -> Any:
        Loop.thread = threading.get_ident()
        return super()._made(question, answer)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was measured, and in which thread."""
    found: list[tuple[str, int]] = []

    def spied(name: str, measure: Any) -> Any:
        def spy(before: str, after: str) -> Any:
            found.append((name, threading.get_ident()))
            return measure(before, after)

        return spy

    for name in MEASURES:
        monkeypatch.setattr(edits, name, spied(name, getattr(edits, name)))
    return found


def saying(text: str) -> Any:
    async def handler(call: Call) -> None:
        await (call.stream(chat_stream(text)) if call.body.get("stream") else call.reply(chat_reply(text)))

    return handler


LONG = "so it is " * 2000 + "a beta"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "apart"), [("a beta", False), (LONG, True)])
def test_words_are_counted_once_and_those_of_long_texts_in_a_thread(
    text: str, apart: bool, stream: bool, taken: list[tuple[str, int]]
) -> None:
    ask = {**ASK, "stream": stream, "aligner": {"return": ["diff"]}}
    with standing(saying(text), Loop()) as stand:
        found = post(stand.url, ask)
    if stream:
        assert text_of(chunks(found)).endswith("a omega")
        diff = chunks(found)[-2]["choices"][0]["aligner"]["diff"]
    else:
        diff = found.json()["choices"][0]["aligner"]["diff"]
    assert diff == [["equal", text.removesuffix("beta")], ["delete", "beta"], ["insert", "omega"]]
    assert Counter(name for name, _ in taken) == dict.fromkeys(MEASURES, 1)
    assert {thread != Loop.thread for _, thread in taken} == {apart}


def test_nothing_is_counted_of_a_copy_and_no_diff_that_nobody_asked_for(taken: list[tuple[str, int]]) -> None:
    with standing(saying("fine")) as stand:
        post(stand.url, ASK)
    assert not taken
    with standing(saying("a beta")) as stand:
        post(stand.url, ASK)
    assert [name for name, _ in taken] == ["edit_ratio", "copied_share"]


def test_shadow_counts_once_too(tmp_path: Path, taken: list[tuple[str, int]]) -> None:
    with standing(saying(LONG), Loop(), mode="shadow", out=str(tmp_path / "shadow")) as stand:
        post(stand.url, ASK)
    assert (tmp_path / "shadow" / "samples.jsonl").read_text().count('"edit_ratio": 0.0') == 1
    assert Counter(name for name, _ in taken) == dict.fromkeys(MEASURES, 1)
    assert Loop.thread not in {thread for _, thread in taken}
