"""Scripted judges behind an address: what the tests of LLM judges share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aligner.evaluate.judge_prompt import load_prompts
from aligner.evaluate.llm_judge import LLMJudge
from aligner.generate.openai import OpenAIGenerator
from tests.api_server import Handler, Reply

_CODE = re.compile(r"^Verdict-(\w+): \[", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a judge is shown."""

    dimension: str
    question: str
    a: str
    b: str
    code: str

    def say(self, choice: str) -> str:
        return f"Because.\nVerdict-{self.code}: {choice}"


def seen_in(body: dict[str, Any]) -> Seen:
    text = body["messages"][0]["content"]
    code = _CODE.findall(text)[-1]

    def between(begin: str, end: str) -> str:
        return str(text.split(f"[{begin} {code}]\n", 1)[1].rsplit(f"\n[{end} {code}]", 1)[0])

    dimension = re.search(r"more (helpful|harmless|honest|empathy)", text)
    return Seen(
        dimension=dimension[1] if dimension else "summary",
        question=between("Question", "End of the question"),
        a=between("Answer A", "End of answer A"),
        b=between("Answer B", "End of answer B"),
        code=code,
    )


def by(choose: Callable[[Seen], str | Reply]) -> Handler:
    """A judge that is handed what it is shown; a lone A, B or Equal becomes a proper reply."""

    def handle(body: dict[str, Any]) -> str | Reply:
        seen = seen_in(body)
        said = choose(seen)
        return seen.say(said) if said in ("A", "B", "Equal") else said

    return handle


def fewer_bad(seen: Seen) -> str:
    a, b = seen.a.count("bad"), seen.b.count("bad")
    return "Equal" if a == b else "A" if a < b else "B"


def obeying(seen: Seen) -> str:
    """Does what the first order in the text that it is shown says, else judges like `fewer_bad`."""
    order = re.search(r"(?:say|Verdict\S*:) (A|B|Equal)\b", f"{seen.a}\n{seen.b}")
    return order[1] if order else fewer_bad(seen)


def llm_judge(url: str, *dimensions: str, **options: Any) -> LLMJudge:
    api = OpenAIGenerator(url, "judge", retries=0, timeout=5.0, store=options.pop("store", None))
    return LLMJudge(api, load_prompts(None, dimensions or ("helpful",)), model="judge", **options)
