"""What a request may choose at the gateway: its gate, and several corrections of which the best is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from aligner.correct.guards import GuardPolicy
from aligner.errors import CheckpointError, ConfigError
from aligner.serve import run as serve_run
from aligner.serve.config import ServeConfig
from aligner.types import Chat, Verdict
from tests.serving import Call, Stand, chat_reply, chat_stream, standing
from tests.taught import FINE, WRONG, taught_aligner

ANSWERS = {t.question: t.answer for t in (WRONG, FINE)}
SCORER = f"{__name__}:PrefersDogs"


class PrefersDogs:
    """Scores by the dogs in an answer."""

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        return [{"dogs": float(answer.count("dog"))} for answer in answers]


class Judges:
    """Finds every candidate as good as the other."""

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        return [Verdict(dimension="helpful", winner="tie")]


class PrefersFoxes:
    """Scores by the foxes in an answer."""

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        return [{"foxes": float(answer.count("fox"))} for answer in answers]


async def handler(call: Call) -> None:
    answer = ANSWERS[call.body["messages"][-1]["content"]]
    if call.body.get("stream"):
        await call.stream(chat_stream(answer))
    else:
        await call.reply(chat_reply(answer))


def ask(stand: Stand, question: str, **options: Any) -> httpx2.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": question}], **options}
    return httpx2.post(f"{stand.url}/v1/chat/completions", json=body, timeout=30)


def told(reply: httpx2.Response) -> tuple[str, dict[str, Any]]:
    """The text that is shown, and the extension."""
    choice = reply.json()["choices"][0]
    return choice["message"]["content"], choice["aligner"]


def metric(stand: Stand, name: str) -> float:
    lines = httpx2.get(f"{stand.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_request_may_ask_for_the_gate() -> None:
    wanted = {"gate": "balanced", "return": ["gate", "reason", "seconds"]}
    with standing(handler, taught_aligner()) as stand:
        text, extension = told(ask(stand, FINE.question, aligner=wanted))
        assert (text, extension["reason"]) == (FINE.answer, None)
        assert extension["gate"]["passed"]
        assert -3.0 < extension["gate"]["score"] < 0
        assert extension["gate"]["threshold"] == -3.0
        assert extension["seconds"]["upstream"] > 0
        assert extension["seconds"]["corrector"] > 0
        text, extension = told(ask(stand, WRONG.question, aligner=wanted))
        assert (text, extension["gate"]["passed"]) == (WRONG.correction, False)
        assert extension["gate"]["score"] < -3.0
        assert told(ask(stand, FINE.question, aligner={"return": ["gate"]}))[1] == {"gate": None}
        assert metric(stand, 'aligner_gate_total{decision="passed"}') == 1
        assert metric(stand, 'aligner_gate_total{decision="held"}') == 1
        assert metric(stand, "aligner_gate_nats_count") == 2
        assert metric(stand, 'aligner_gate_nats_bucket{le="2.0"}') == 1


def test_a_stream_tells_the_gate_in_its_last_chunk() -> None:
    with standing(handler, taught_aligner(), gate="balanced") as stand:
        reply = ask(stand, FINE.question, stream=True, aligner={"return": ["gate", "seconds"]})
    last = reply.text.split("\n\n")[-3]
    assert '"passed":true' in last
    assert '"seconds":{"upstream":' in last
    assert "buffered" not in last


def test_the_gateways_gate_holds_for_all_and_a_request_may_turn_it_off() -> None:
    with standing(handler, taught_aligner(), gate="balanced") as stand:
        assert told(ask(stand, FINE.question, aligner={"return": ["gate"]}))[1]["gate"]["passed"]
        assert told(ask(stand, FINE.question, aligner={"gate": "off", "return": ["gate"]}))[1]["gate"] is None
        refused = ask(stand, FINE.question, aligner={"gate": "strict"})
    assert refused.status_code == 400
    assert "'aligner.gate' strict needs a corrector" in refused.json()["error"]["message"]
    assert "balanced, off" in refused.json()["error"]["message"]


def test_the_best_of_several_is_kept() -> None:
    with standing(handler, taught_aligner(), scorer=SCORER) as stand:
        one = ask(stand, WRONG.question)
        text, extension = told(ask(stand, WRONG.question, aligner={"best_of": 3, "return": ["reason"]}))
        assert (text, extension) == (WRONG.correction, {"reason": None})
        three = ask(stand, WRONG.question, aligner={"best_of": 3})
        spent = [reply.json()["usage"]["aligner"]["prompt_tokens"] for reply in (one, three)]
        assert spent[1] == 3 * spent[0]
        most = ask(stand, WRONG.question, aligner={"best_of": 9})
    assert most.status_code == 400
    assert "8 corrections at most" in most.json()["error"]["message"]


def test_a_margin_holds_for_requests() -> None:
    with standing(handler, taught_aligner(), scorer=SCORER, best_of=2, margin=5.0) as stand:
        assert told(ask(stand, WRONG.question, aligner={"return": ["reason"]})) == (
            WRONG.answer,
            {"reason": "not_better"},
        )


def test_a_margin_that_the_ranker_cannot_keep_is_told_at_the_start() -> None:
    with (
        pytest.raises(ConfigError, match="this ranker judges"),
        standing(handler, taught_aligner(), scorer=f"{__name__}:Judges", margin=1.0),
    ):
        pass


def test_the_original_stays_where_nothing_is_better() -> None:
    with standing(handler, taught_aligner(), scorer=f"{__name__}:PrefersFoxes", best_of=2) as stand:
        reply = ask(stand, WRONG.question, aligner={"return": ["reason"]})
        assert told(reply) == (WRONG.answer, {"reason": "not_better"})
        assert told(ask(stand, WRONG.question, aligner={"best_of": 1, "return": ["reason"]}))[0] == WRONG.correction


def test_a_stream_of_the_best_comes_whole_and_says_so() -> None:
    with standing(handler, taught_aligner(), scorer=SCORER) as stand:
        reply = ask(stand, WRONG.question, stream=True, aligner={"best_of": 2})
    assert reply.text.count(f'"content":"{WRONG.correction}"') == 1
    assert '"aligner":{"buffered":true}' in reply.text.split("\n\n")[-3]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gate": "balanced", "aligner": "http://127.0.0.1:1/v1", "tokenizer": "x"}, "runs here, and not an address"),
        ({"scorer": SCORER, "aligner": "http://127.0.0.1:1/v1", "tokenizer": "x"}, "runs here, and not an address"),
        ({"quantize": "int8", "aligner": "http://127.0.0.1:1/v1", "tokenizer": "x"}, "runs here, and not an address"),
        ({"dtype": "float32", "aligner": "http://127.0.0.1:1/v1", "tokenizer": "x"}, "'dtype' is for a corrector that"),
        ({"speculate": False, "aligner": "http://127.0.0.1:1/v1", "tokenizer": "x"}, "'speculate' is for a corrector"),
        ({"aligner_takes": "text"}, "'aligner_takes' is for a corrector behind an address"),
        ({"served_aligner": "m"}, "'served_aligner' is for a corrector behind an address"),
        ({"sentences": True, "best_of": 2, "scorer": SCORER}, "'best_of' waits for the whole answers"),
        ({"scorer": SCORER, "margin": math.inf}, "finite"),
        ({"best_of": 2}, "needs a 'scorer'"),
        ({"best_of": 9, "scorer": SCORER}, "'max_best_of' 8"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ServeConfig.from_dict({"aligner": "x", "upstream": ("http://127.0.0.1:1/v1",), **settings})


def test_guards_and_quantize_reach_the_corrector(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[str, Any] = {}
    monkeypatch.setattr(serve_run, "load_corrector", lambda name, **options: loaded.update(options))
    base = {"aligner": "x", "upstream": ("http://127.0.0.1:1/v1",)}
    serve_run._corrector(ServeConfig.from_dict(base))
    assert (loaded["guards"], loaded["quantize"]) == (GuardPolicy(), "none")
    serve_run._corrector(ServeConfig.from_dict({**base, "quantize": "int4", "guards": {"cut": "report"}}))
    assert (loaded["guards"], loaded["quantize"]) == (GuardPolicy(cut="report"), "int4")


def test_a_gate_that_was_not_calibrated_is_told_at_the_start() -> None:
    with (
        pytest.raises(CheckpointError, match="gate=strict"),
        standing(handler, taught_aligner(), gate="strict"),
    ):
        pass
