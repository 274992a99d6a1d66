"""The guards on real corrections and on texts that people wrote well. Needs the real data; skips without it."""

from __future__ import annotations

import json
import lzma
import os
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aligner.correct import guards

DATA = Path(os.environ.get("ALIGNER_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
OUTPUTS = DATA / "alpaca_eval" / "outputs"
TRIPLETS = DATA / "triplets"

UPSTREAMS = ("gpt-4-turbo-2024-04-09", "qwen1.5-72b-chat")
# Share of corrections with a foreign script, as published for each upstream.
PUBLISHED_LEAKS = {"gpt-4-turbo-2024-04-09": 0.150, "qwen1.5-72b-chat": 0.287}

STOPPED = re.compile(r"[.!?…][\"')*_`\]\s]*\Z")
# The last thing to be seen is a letter, a digit, or a mark after which a sentence goes on.
UNSTOPPED = re.compile(r"[^\W_][\s\u200b]*\Z|[,:;،、，：；(\[{–—-][\s\u200b]*\Z")
STRUCTURED = re.compile(r"\s*(?:[-*•|#]|\d+\s?[.)])|.*[=|]")

pytestmark = pytest.mark.skipif(not OUTPUTS.is_dir(), reason="the real data is not here")


@cache
def corrections(upstream: str) -> list[dict[str, str]]:
    with lzma.open(OUTPUTS / f"aligner-2b_{upstream}.json.xz", "rt", encoding="utf-8") as file:
        rows: list[dict[str, str]] = json.load(file)
    return rows


@cache
def triplets(name: str) -> list[dict[str, Any]]:
    with lzma.open(TRIPLETS / f"{name}.jsonl.xz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def reasons(rows: list[dict[str, Any]]) -> Counter[str | None]:
    return Counter(
        guards.check(
            question=row.get("question") or "",
            answer=row["answer"],
            correction=row["correction"],
            finish_reason="stop",
        )
        for row in rows
    )


def last_line(text: str) -> str:
    return [line for line in text.splitlines() if line.strip()][-1]


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_leak_rates_are_those_published(upstream: str) -> None:
    rows = corrections(upstream)
    assert len(rows) == 805
    leaks = sum(guards.leaks_script(row["instruction"], row["original_output"], row["output"]) for row in rows)
    assert leaks / len(rows) == pytest.approx(PUBLISHED_LEAKS[upstream], abs=0.03)  # measured .140 and .266


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_corrections_that_lost_their_final_punctuation_are_cut(upstream: str) -> None:
    lost = [
        (row["original_output"], row["output"])
        for row in corrections(upstream)
        if STOPPED.search(row["original_output"]) and UNSTOPPED.search(row["output"])
    ]
    running = [
        pair for pair in lost if not STRUCTURED.match(last_line(pair[1])) and len(last_line(pair[1]).split()) > 7
    ]
    assert len(lost) > 60
    assert len(running) > 25
    # The rest are lists, equations, titles and addresses: they need no stop.
    assert sum(guards.is_cut(*pair, "stop") for pair in lost) >= 0.85 * len(lost)  # measured .87 and .90
    assert sum(guards.is_cut(*pair, "stop") for pair in running) >= 0.97 * len(running)


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_answers_broken_off_anywhere_are_cut(upstream: str) -> None:
    rng = random.Random(0)
    pairs = []
    for row in corrections(upstream):
        answer = row["original_output"]
        if STOPPED.search(answer) and len(answer) > 200:
            end = rng.randrange(len(answer) // 3, len(answer) - 20)
            if answer[end - 1].isalnum() and answer[end].isalnum():  # inside a word
                pairs.append((answer, answer[:end]))
    assert len(pairs) > 300
    assert sum(guards.is_cut(*pair, "stop") for pair in pairs) >= 0.95 * len(pairs)


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_fences_taken_off_real_code_are_lost_and_code_taken_out_is_not(upstream: str) -> None:
    block = re.compile(r"^```\w*\n.*?^```[ \t]*$", re.MULTILINE | re.DOTALL)
    coded = 0
    for row in corrections(upstream):
        answer = row["original_output"]
        blocks = block.findall(answer)
        if not blocks or answer.count("```") != 2 * len(blocks) or "```text" in answer:
            continue
        if not any(re.search(r"[a-zA-Z]{3}", found.partition("\n")[2]) for found in blocks):
            continue
        coded += 1
        bare = re.sub(r"^```.*\n?", "", answer, flags=re.MULTILINE)
        assert guards.loses_code_fence(answer, bare)
        assert not guards.loses_code_fence(answer, block.sub("", answer))
        assert not guards.loses_code_fence(answer, answer.replace("```", "~~~"))
    assert coded > 25


def test_real_corrections_without_any_fence_are_kept_only_where_the_code_still_stands() -> None:
    rows = [row for row in corrections(UPSTREAMS[0]) if "```" in row["original_output"]]
    gone = [row for row in rows if "```" not in row["output"]]
    assert (len(rows), len(gone)) == (61, 10)  # as published
    # In nine of them the code was rewritten or left out, which is for a judge to weigh.
    lost = [row for row in gone if guards.loses_code_fence(row["original_output"], row["output"])]
    assert [row["output"].strip() for row in lost] == ['puts "Hello World!"']


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("jfleg", 0.001),  # measured .0002
        ("gsm8k", 0.001),  # measured .0003
        ("alpacaeval_judged", 0.005),  # measured .002: another model's answer, not an edit
        ("iterater", 0.01),  # measured .007
        ("positive_frames", 0.03),  # measured .027: tweets, often without stops
        ("paradetox", 0.045),  # measured .039: one sentence each, most without a stop after the edit
    ],
)
def test_false_alarms_are_rare_on_what_people_wrote(name: str, bound: float) -> None:
    rows = triplets(name)
    kept = reasons(rows)
    assert 1 - kept[None] / len(rows) <= bound, kept


@pytest.mark.parametrize("name", ["aligner2b", "iterater", "jfleg", "hh_harmless", "xstest", "alpacaeval_judged"])
def test_real_texts_paired_with_themselves_pass(name: str) -> None:
    copies = [
        {**row, "answer": text, "correction": text}
        for row in triplets(name)
        for text in (row["answer"], row["correction"])
    ]
    assert set(reasons(copies)) == {None}


def test_real_answers_with_one_word_changed_pass() -> None:
    rows = []
    for row in triplets("aligner2b"):
        words = row["answer"].split(" ")
        words[len(words) // 2] = "indeed"
        rows.append({**row, "correction": " ".join(words)})
    kept = reasons(rows)
    assert 1 - kept[None] / len(rows) <= 0.003, kept


def test_a_quarter_of_the_real_corrections_is_kept_back() -> None:
    kept = reasons(triplets("aligner2b"))
    share = {reason: count / kept.total() for reason, count in kept.items()}
    assert set(share) <= {None, "cut", "script_leak", "unbalanced_fence", "lost_code_fence", "lost_table", "lost_latex"}
    assert 0.06 < share["cut"] < 0.11
    assert 0.15 < share["script_leak"] < 0.21
    assert 0.01 < share["unbalanced_fence"] < 0.03
    assert share.get("lost_code_fence", 0) + share.get("lost_table", 0) + share.get("lost_latex", 0) < 0.01


@pytest.mark.parametrize(("name", "bound"), [("aligner2b", 0.3), ("iterater", 0.03), ("hh_harmless", 0.05)])
def test_what_is_only_reported_stays_rare_on_edits(name: str, bound: float) -> None:
    rows = triplets(name)
    seen = Counter(
        flag
        for row in rows
        for flag in guards.reported(
            question=row.get("question") or "", answer=row["answer"], correction=row["correction"]
        )
    )
    assert set(seen) <= {"changed_numbers", "changed_urls", "collapsed"}
    assert seen.total() / len(rows) < bound, seen
