"""The playground in a real browser, at a real gateway with a corrector that was taught in process."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.browser import CHROMIUM, CONTROL, SHIFT, Page, chromium, page
from tests.serving import Call, RuleCorrector, Stand, chat_chunk, chat_reply, chat_stream, standing
from tests.taught import FINE, MARKED, MARKUP, WRONG, taught_aligner

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

ANSWERS = {t.question: t.answer for t in (WRONG, FINE, MARKED)}
DONE = "document.querySelector('#status').textContent === 'Done.'"
READY = "document.querySelector('#model').options.length === 2"


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


async def handler(call: Call) -> None:
    """Knows some answers, and fails, hangs or breaks off on request."""
    if call.path == "/v1/models":
        await call.reply({"object": "list", "data": [{"id": "small"}, {"id": "large"}]})
        return
    question = call.body["messages"][-1]["content"]
    if question == "fail":
        await call.reply({"error": {"message": "no credit\nis left"}}, 402)
    elif question == "hang":
        await call.gone()
    elif question == "break":
        await call.stream([chat_chunk({"role": "assistant", "content": "half"})], done=False)
    elif call.body.get("stream"):
        await call.stream(chat_stream(ANSWERS.get(question, question)), pause=0.01)
    else:
        await call.reply(chat_reply(ANSWERS.get(question, question)))


def visit(
    browser: str, story: Callable[[Page, Stand], Awaitable[None]], corrector: Any = None, **settings: Any
) -> Page:
    """Open the playground and do something there."""

    async def told(stand: Stand) -> Page:
        async with page(browser) as at:
            await at.open(f"{stand.url}/")
            await story(at, stand)
            return at

    with standing(handler, corrector or taught_aligner(), **settings) as stand:
        found = asyncio.run(told(stand))
        strangers = [url for url in found.requests if not url.startswith((f"{stand.url}/", "data:"))]
        assert not strangers
    return found


async def ask(at: Page, question: str, done: str = DONE) -> None:
    await at.until(READY)
    await at.run("document.querySelector('#question').value = ''; document.querySelector('#question').focus()")
    await at.type(question)
    await at.key("Enter", CONTROL)
    await at.until(done)


@pytest.mark.parametrize("stream", [True, False])
def test_ask_and_see_the_difference(browser: str, stream: bool) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await at.run(f"document.querySelector('#stream').checked = {json.dumps(stream)}")
        await ask(at, WRONG.question)
        assert await at.text("#answer") == WRONG.answer
        assert await at.text("#corrected") == WRONG.correction
        assert await at.run("[...document.querySelectorAll('#answer *')].map(e => e.outerHTML)") == ["<del>fox</del>"]
        assert await at.run("[...document.querySelectorAll('#corrected *')].map(e => e.outerHTML)") == [
            "<ins>dog</ins>"
        ]
        assert await at.text("#decision") == "The corrector changed the answer."
        for name in ("upstream", "corrector", "total"):
            assert re.fullmatch(r"\d+ ms|\d+\.\d\d s", await at.text(f"#time-{name}"))
        assert await at.text("#gate-said") == "did not decide"
        sent = stand.upstream.calls[-1].body
        assert sent["model"] == "small"
        assert sent.get("stream", False) is stream

    assert not visit(browser, story).said


def test_the_gates_decision_and_the_system_prompt(browser: str) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await at.until(READY)
        options = "[...document.querySelector('#gate').options].map(o => [o.value, o.disabled])"
        assert await at.run(options) == [["", False], ["off", False], ["balanced", False], ["strict", True]]
        await at.run("document.querySelector('#gate').value = 'balanced'")
        await ask(at, FINE.question)
        assert (await at.text("#decision")).startswith("The gate let the answer through")
        assert re.fullmatch(r"let it through \(score -\d\.\d\d nats, threshold -3\.00\)", await at.text("#gate-said"))
        await ask(at, WRONG.question)
        assert (await at.text("#gate-said")).startswith("had it corrected (score -")
        await at.run("document.querySelector('#system').value = 'Be kind.'")
        await ask(at, WRONG.question)
        assert stand.upstream.calls[-1].body["messages"][0] == {"role": "system", "content": "Be kind."}

    visit(browser, story)


def test_off_best_of_and_reasons(browser: str) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await ask(at, WRONG.question)
        assert await at.text("#decision") == "The answer was kept: no correction was ranked above it."
        assert await at.text("#corrected") == WRONG.answer
        await at.run("document.querySelector('#best-of').value = '99'")
        await at.key("Enter", CONTROL)
        await at.until("!document.querySelector('#error').hidden")
        assert await at.text("#error") == "Best of takes a whole number from 1 to 8."
        await at.run("document.querySelector('#best-of').value = '1'")
        await ask(at, WRONG.question)
        assert await at.text("#corrected") == WRONG.correction
        await at.run("document.querySelector('#correction').value = 'off'")
        await ask(at, WRONG.question)
        assert await at.text("#decision") == "The answer was kept: correction is off."
        assert await at.text("#answer") == WRONG.answer
        assert await at.text("#time-corrector") == "not asked"

    visit(browser, story, scorer="tests.unit.test_gateway_choice:PrefersFoxes", best_of=2)


@pytest.mark.parametrize("stream", [True, False])
def test_markup_is_shown_as_text_and_does_not_run(browser: str, stream: bool) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await at.run(f"document.querySelector('#stream').checked = {json.dumps(stream)}")
        await ask(at, MARKED.question)
        assert await at.text("#answer") == MARKUP
        assert await at.text("#corrected") == MARKED.correction
        inside = "document.querySelectorAll('#result img, #result script').length"
        assert await at.run(inside) == 0
        assert await at.run("document.title") == "aligner playground"
        # The policy holds even where a page would take text for markup.
        refused = "(() => { try { document.body.innerHTML = '<b>x</b>'; return ''; } catch (e) { return e.name; } })()"
        assert await at.run(refused) == "TypeError"

    found = visit(browser, story)
    assert all("TrustedHTML" in said for said in found.said)


def test_text_is_shown_as_it_comes(browser: str) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await ask(at, "one two beta four", "document.querySelector('#corrected').textContent === 'one two omega'")
        assert await at.text("#status") == "The text is coming."
        await at.until(DONE)
        assert await at.text("#answer") == "one two beta four"
        assert await at.text("#corrected") == "one two omega four"

    visit(browser, story, RuleCorrector(silent=0.5))


def test_keyboard_alone(browser: str) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await at.until(READY)
        assert await at.run("document.activeElement.id") == "question"
        await at.type(WRONG.question)
        order = []
        for _ in range(7):
            await at.key("Tab")
            order.append(await at.run("document.activeElement.id"))
            ring = "(s => s.outlineStyle + s.outlineWidth)(getComputedStyle(document.activeElement))"
            assert await at.run(ring) == "solid3px"
        assert order == ["system", "model", "correction", "gate", "key", "stream", "ask"]
        await at.key("Tab", SHIFT)
        assert await at.run("document.activeElement.id") == "stream"
        await at.key("Tab")
        await at.key("Enter")
        await at.until(DONE)
        order = []
        for _ in range(4):
            await at.key("Tab")
            order.append(await at.run("document.activeElement.id"))
        assert order == ["answer", "corrected", "curl", "copy"]
        await at.key("Enter")
        await at.until("document.querySelector('#copied').textContent !== ''")

    visit(browser, story)


@pytest.mark.parametrize("stream", [True, False])
def test_escape_cancels_on_both_sides(browser: str, stream: bool) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await at.run(f"document.querySelector('#stream').checked = {json.dumps(stream)}")
        await ask(at, "hang", "!document.querySelector('#cancel').hidden")
        while not any(call.path.endswith("completions") for call in stand.upstream.calls):
            await asyncio.sleep(0.05)
        await at.key("Escape")
        await at.until("document.querySelector('#status').textContent === 'Cancelled.'")
        assert await at.run("document.querySelector('#cancel').hidden")
        assert await at.run("document.querySelector('#error').hidden")
        await at.until("fetch('metrics').then(r => r.text()).then(t => t.includes('aligner_requests_in_flight 0.0'))")
        await ask(at, FINE.question)
        assert await at.text("#answer") == FINE.answer

    visit(browser, story)


@pytest.mark.parametrize(
    ("question", "says"),
    [("fail", "402: no credit is left"), ("break", "the upstream broke off before its answer was whole; try again")],
)
def test_errors_are_one_line(browser: str, question: str, says: str) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await ask(at, question, "!document.querySelector('#error').hidden")
        assert await at.text("#error") == says
        assert await at.text("#status") == ""
        await ask(at, FINE.question)
        assert await at.run("document.querySelector('#error').hidden")

    visit(browser, story)


def test_no_question_and_no_gateway(browser: str) -> None:
    async def told() -> None:
        async with page(browser) as at:
            with standing(handler, taught_aligner()) as stand:
                await at.open(f"{stand.url}/")
                await at.until(READY)
                await at.key("Enter", CONTROL)
                await at.until("!document.querySelector('#error').hidden")
                assert await at.text("#error") == "There is no question yet; write one."
            await at.type("hello")
            await at.key("Enter", CONTROL)
            await at.until("document.querySelector('#error').textContent.includes('cannot be reached')")

    asyncio.run(told())


def test_cookies_of_this_host_stay_in_the_browser(browser: str) -> None:
    """They are those of every port here."""

    async def story(at: Page, stand: Stand) -> None:
        seen: list[dict[bytes, bytes]] = []
        stand.app.door.check = lambda headers: seen.append(dict(headers))  # type: ignore[method-assign]
        await at.run("document.cookie = 'session=mine'")
        await at.run("load()")
        await ask(at, WRONG.question)
        assert len(seen) >= 3, "the settings, the models and the question"
        assert not [headers for headers in seen if b"cookie" in headers]

    visit(browser, story)


def test_the_key_stays_in_memory(browser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAY_KEYS", "open-sesame")

    async def story(at: Page, stand: Stand) -> None:
        await at.until("!document.querySelector('#error').hidden")
        assert (await at.text("#error")).startswith("401: the key is missing or wrong")
        await at.run("document.querySelector('#key').focus()")
        await at.type("open-sesame")
        await at.key("Tab")
        await ask(at, WRONG.question)
        assert await at.text("#corrected") == WRONG.correction
        curl = await at.text("#curl")
        assert "$ALIGNER_KEY" in curl
        assert "open-sesame" not in curl
        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        assert "sesame" not in await at.run(kept)
        assert stand.upstream.calls[-1].header("authorization") is None

    visit(browser, story, client_keys_env="PLAY_KEYS")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
@pytest.mark.parametrize("stream", [True, False])
def test_the_curl_does_the_same(browser: str, stream: bool) -> None:
    async def story(at: Page, stand: Stand) -> None:
        question = 'It\'s beta; "quoted" $HOME `id` \\ !x\nand ünïcode 😀'
        await at.run(f"document.querySelector('#stream').checked = {json.dumps(stream)}")
        await ask(at, question)
        sent = stand.upstream.calls[-1].body
        command = await at.text("#curl")
        shown = await at.text("#corrected")
        done = await asyncio.to_thread(subprocess.run, ["bash", "-c", command], capture_output=True, timeout=60)
        assert stand.upstream.calls[-1].body == sent
        assert sent["messages"][0]["content"] == question
        reply = done.stdout.decode()
        if stream:
            chunks = [json.loads(part[6:]) for part in reply.split("\n\n") if part.startswith("data: {")]
            text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
        else:
            text = json.loads(reply)["choices"][0]["message"]["content"]
        assert text == shown == question.replace("beta", "omega")

    visit(browser, story, RuleCorrector())


_CONTRAST = """
(() => {
  const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const clear = (c) => c === "transparent" || /, 0\\)$/.test(c);
  const behind = (e) => { while (e && clear(getComputedStyle(e).backgroundColor)) e = e.parentElement;
    return e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)"; };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || "value" in e;
    if (own) found.push([e.id || e.tagName, "text", ratio(style.color, behind(e))]);
    if (e.matches("textarea, select, input, button")) {
      found.push([e.id, "border", ratio(style.borderTopColor, behind(e.parentElement))]);
      const hint = getComputedStyle(e, "::placeholder").color;
      if (e.placeholder) found.push([e.id, "placeholder", ratio(hint, behind(e))]);
    }
  }
  return found;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_light_and_dark(browser: str, scheme: str) -> None:
    """WCAG 2.2 AA: 4.5 for text (1.4.3), 3 for the borders of fields (1.4.11)."""

    async def story(at: Page, stand: Stand) -> None:
        await at.scheme(scheme)
        await ask(at, WRONG.question)
        await at.run("document.querySelector('#error').hidden = false")
        await at.run("document.querySelector('#error').textContent = 'wrong'")
        dark = await at.run("getComputedStyle(document.body).backgroundColor")
        assert dark == ("rgb(15, 20, 25)" if scheme == "dark" else "rgb(255, 255, 255)")
        found = await at.run(_CONTRAST)
        assert {"DEL", "INS", "error", "ask", "answer", "best-of"} <= {name for name, *_ in found}
        low = [row for row in found if row[2] < (3 if row[1] == "border" else 4.5) and row[0] != "stream"]
        assert not low

    visit(browser, story)


def test_names_landmarks_and_a_narrow_screen(browser: str) -> None:
    async def story(at: Page, stand: Stand) -> None:
        await at.narrow(320)
        await at.run("document.querySelector('#stream').checked = false")
        await ask(at, "x" * 400)
        assert await at.run("document.documentElement.scrollWidth") <= 320
        tops = "['answer', 'corrected'].map(id => document.getElementById(id).getBoundingClientRect().left)"
        left, right = await at.run(tops)
        assert left == right
        nameless = """[...document.querySelectorAll('input, select, textarea')].filter(e =>
            !e.labels.length && !e.ariaLabel).map(e => e.id)"""
        assert await at.run(nameless) == []
        assert await at.run("document.documentElement.lang") == "en"
        assert await at.run("document.querySelectorAll('main, h1').length") == 2
        ids = await at.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert await at.run("document.querySelector('#status').getAttribute('aria-live')") == "polite"
        assert await at.run("document.querySelector('#error').getAttribute('role')") == "alert"
        nodes = (await at.call("Accessibility.getFullAXTree"))["nodes"]
        shown = [(n["role"]["value"], n.get("name", {}).get("value")) for n in nodes if not n["ignored"]]
        wanted = {("textbox", "Question"), ("combobox", "Model"), ("combobox", "Gate"), ("button", "Ask"),
                  ("region", "Answer"), ("region", "Corrected"), ("checkbox", "Show the text as it comes")}  # fmt: skip
        assert wanted <= set(shown)
        small = """[...document.querySelectorAll('button, select, textarea')].filter(e => e.checkVisibility() &&
            e.getBoundingClientRect().height < 24).length"""
        assert await at.run(small) == 0

    visit(browser, story, RuleCorrector())
