"""The pocket world's parts: names, questions and their splits, profiles, and the oracle's refusals."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from aligner.errors import DataError
from aligner.generate.collect import collect
from aligner.pocket.claims import Claim, Language
from aligner.pocket.faults import FAULTS, text_of
from aligner.pocket.grammar import Phrases, sentences
from aligner.pocket.requests import small_request
from aligner.pocket.suite import (
    OTHER_REQUESTS,
    OTHERS_LATER,
    TAUGHT_TURNS,
    SuiteConfig,
    questions,
    run,
    triplets,
    upstream_rows,
)
from aligner.pocket.tasks import DIMENSIONS, TASKS, Question, Tasks, with_earlier_turn
from aligner.pocket.text import world_rows
from aligner.pocket.upstreams import Answerer, ScriptedUpstream, profiles
from aligner.pocket.world import World, words
from aligner.types import Message, as_chat
from tests.pocket import drawn, oracle, splits_of


def test_phrases_are_read_back_and_a_slot_that_comes_twice_agrees() -> None:
    phrases = Phrases(["{a} and {b}.", "{Me}, said {a} to {a}."])
    assert phrases.write(1, {"me": "it rains", "a": "Ann"}) == "It rains, said Ann to Ann."
    assert list(phrases.read("It rains, said Ann to Ann.")) == [(1, {"Me": "It rains", "a": "Ann"})]
    assert list(phrases.read("It rains, said Ann to Bob.")) == []


def test_sentences_end_at_stops_followed_by_space() -> None:
    assert sentences("One. Two? Three!  Four 1.5 five.") == ["One.", "Two?", "Three!", "Four 1.5 five."]
    assert sentences("  ") == []


def test_the_world_has_the_size_that_it_says() -> None:
    world = World(0)
    assert sum(map(len, world.entities.values())) == 120
    assert len(world.facts) == 480
    assert all(f.value != f.belief for f in world.facts.values())
    share = sum(name in world.held_out for name in world.kind_of) / 120
    assert share == pytest.approx(0.3)
    believed = sum(f.belief is not None for f in world.facts.values())
    assert 180 < believed < 300


def test_the_seed_makes_the_world() -> None:
    assert World(3).facts == World(3).facts
    assert World(3).facts != World(4).facts


def test_no_two_claims_share_a_sentence() -> None:
    """Over the whole language: every fact with every value, every plan and act."""
    world = World(0)
    language = Language(world)
    claims = [Claim(kind="fact", about=(f.entity, f.attribute), value=v)
              for f in world.facts.values() for v in world.values(f.kind, f.attribute)]  # fmt: skip
    claims += language._clauses.values()
    for claim in Random(0).sample(claims, 1500):
        for way in range(language.ways(claim)):
            assert language.read(language.say(claim, way)) == claim


@pytest.mark.parametrize("task", TASKS)
def test_every_split_has_questions_that_are_of_it(task) -> None:
    tasks = oracle().tasks
    for split in splits_of(task):
        question, _, _ = drawn(1, task, split)
        assert question.split == split
        assert question.task == task
        assert tasks.read(question.text) == question
    entity = drawn(2, task, "entity")[0] if task != "sums" else None
    if entity is not None:
        assert any(name.lower() in entity.text.lower() for name in tasks.world.held_out)


def test_triplets_never_mention_what_is_held_out() -> None:
    tasks = oracle().tasks
    names = "|".join(re.escape(name) for name in sorted(tasks.world.held_out, key=len, reverse=True))
    held_out = re.compile(rf"\b(?:{names})\b", re.IGNORECASE)  # entities, objects, situations and events
    rows = list(triplets(tasks, 3000, 0))
    for row in rows:
        text = json.dumps(row)
        assert not held_out.search(text)
        assert " plus " not in text
        read = tasks.read(_last(row["question"]))
        if row["source"] == "pocket/other":
            assert read is None
            assert row["answer"] == row["correction"]
            continue
        assert read is not None
        assert read.split == "train"
        assert read.task != "sums"
    others = [r for r in rows if r["source"] == "pocket/other"]
    assert len(others) / len(rows) == pytest.approx(OTHER_REQUESTS, abs=0.015)
    alone = [r for r in others if isinstance(r["question"], str)]
    second = [r for r in others if r not in alone and r["question"][1]["content"] != r["answer"]]
    assert len(second) / (len(second) + len(alone)) == pytest.approx(OTHERS_LATER, abs=0.1)
    assert all(tasks.read(r["question"][0]["content"]) is not None for r in second)
    rows = [r for r in rows if r["source"] != "pocket/other"]
    assert len({r["question"] if isinstance(r["question"], str) else "chat" for r in rows}) > 1000
    two_turns = sum(not isinstance(r["question"], str) for r in rows) / len(rows)
    assert two_turns == pytest.approx(TAUGHT_TURNS, abs=0.03)
    copies = sum(r["answer"] == r["correction"] for r in rows) / len(rows)
    assert copies == pytest.approx(0.4, abs=0.05)
    talk = oracle().language.talk["address"]
    assert sum(any(a in r["answer"] for a in talk) for r in rows) / len(rows) == pytest.approx(0.1, abs=0.02)
    assert not any(a in r["answer"] for r in rows for a in talk[round(len(talk) * 0.75) :])


@pytest.mark.parametrize("task", TASKS)
def test_test_questions_are_distinct_and_of_their_splits(task) -> None:
    rows = list(questions(oracle().tasks, task, 200))
    texts = [r["question"] if isinstance(r["question"], str) else r["question"][-1]["content"] for r in rows]
    assert len(set(texts)) == len({r["id"] for r in rows}) == 200
    counts = Counter(r["split"] for r in rows)
    assert set(counts) == set(splits_of(task)) - {"train"}
    assert task == "sums" or min(counts.values()) >= 30
    for row in rows:
        scores = asyncio.run(oracle().faults(as_chat(row["question"]), [row["reference"]]))
        assert scores == [{"helpful": 0, "harmless": 0, "honest": 0}]


def test_more_questions_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match="test questions of the task 'empathy', not 5000; lower"):
        list(questions(oracle().tasks, "empathy", 5000))


def test_upstreams_learn_from_no_test_question(tmp_path) -> None:
    config = SuiteConfig(out=tmp_path / "s", triplets=50, texts=300, reading=200, questions=60,
                         upstream_rows=400, upstreams=("crow",))  # fmt: skip
    run_dir = run(config)
    lines = (run_dir.path / "tasks").glob("*.jsonl")
    test = {_last(json.loads(line)["question"]) for file in lines for line in file.read_text().splitlines()}
    learned = [json.loads(line) for line in (run_dir.path / "upstreams" / "crow.jsonl").read_text().splitlines()]
    assert len(learned) == 400
    assert not test & {_last(r["prompt"]) for r in learned}
    for name in ("world.jsonl", "reading.jsonl"):
        known = [json.loads(line) for line in (run_dir.path / name).read_text().splitlines()]
        assert not test & {_last(r["prompt"]) for r in known if "prompt" in r}
    assert run_dir.result()["rows"]["triplets.jsonl"] == 50
    assert run_dir.result()["rows"]["reading.jsonl"] == 200
    again = run(SuiteConfig(**{**config.model_dump(), "out": tmp_path / "t"}))
    for name in ("world.jsonl", "reading.jsonl", "triplets.jsonl", "upstreams/crow.jsonl", "tasks/truth.jsonl"):
        assert (run_dir.path / name).read_bytes() == (again.path / name).read_bytes()


def _last(question) -> str:
    return question if isinstance(question, str) else question[-1]["content"]


def test_a_tenth_of_the_world_text_are_instructions_on_training_questions() -> None:
    rows = list(world_rows(oracle().tasks, 3000, 0))
    instructions = [r for r in rows if str(r.get("prompt")).startswith("Question: ")]
    assert len(instructions) / len(rows) == pytest.approx(0.1, abs=0.02)
    for row in instructions:
        asked = row["prompt"].split("Question: ", 1)[1].rsplit("\nAnswer: ", 1)[0]
        read = oracle().tasks.read(asked)
        assert read is not None
        assert read.split == "train"
    said = Counter(r["completion"] for r in instructions if "Critique: " not in r["prompt"])
    assert set(said) == {"Yes.", "No."}
    assert 0.3 < said["No."] / said.total() < 0.7


def test_a_tenth_of_what_an_upstream_learns_are_instructions() -> None:
    rows = list(upstream_rows(oracle().tasks, profiles()["crow"], 2000, 0))
    instructions = [r for r in rows if str(r["prompt"]).startswith("Question: ")]
    assert len(instructions) / len(rows) == pytest.approx(0.1, abs=0.02)
    assert {"Yes.", "No."} < {r["completion"] for r in instructions}


@pytest.mark.parametrize(("options", "share"), [({}, 0.25), ({"instructions": 0, "read_back": 0.1}, 0.1)])
def test_a_quarter_of_the_world_text_is_said_again_or_what_is_wanted(options, share) -> None:
    rows = list(world_rows(oracle().tasks, 2000, 0, **options))
    if options:
        assert not any(str(r.get("prompt")).startswith("Question: ") for r in rows)
    notes = [r for r in rows if isinstance(r.get("prompt"), str) and r["completion"] in r["prompt"]]
    chats = [r for r in rows if isinstance(r.get("prompt"), list)]
    assert all(r["prompt"][1] == {"role": "assistant", "content": r["completion"]} for r in chats)
    # A dialogue's facts, or a judged answer, may stand in a prompt by chance: not often.
    assert (len(notes) + len(chats)) / len(rows) == pytest.approx(share, abs=0.04)
    assert len(chats) / (len(notes) + len(chats)) == pytest.approx(0.6, abs=0.08)


def test_questions_of_the_world_text_may_come_second() -> None:
    rows = [r for r in world_rows(oracle().tasks, 1000, 0, instructions=0, read_back=0, later=0.4) if "prompt" in r]
    chats = [r for r in rows if isinstance(r["prompt"], list)]
    assert len(chats) / len(rows) == pytest.approx(0.4, abs=0.06)
    for row in chats:
        asked = oracle().tasks.read(row["prompt"][-1]["content"])
        assert asked is not None
        assert oracle().scores(asked, row["completion"]) == oracle().best(asked)
    assert any(oracle().tasks.read(r["prompt"][-1]["content"]).task == "sums" for r in chats)


def test_every_fact_and_every_act_is_stated_about_equally_often() -> None:
    rows = [r["text"] for r in world_rows(oracle().tasks, 4000, 0) if "text" in r]
    claims = [c for text in rows for c in oracle().language.claims(text) if c is not None]
    stated, steps = (Counter(c.about for c in claims if c.kind == kind) for kind in ("fact", "step"))
    assert stated.total() + steps.total() == len(claims)
    assert set(stated) == set(oracle().world.facts)
    assert max(stated.values()) - min(stated.values()) <= 2
    assert {act for act, _ in steps} == {act.benign for act in oracle().world.acts}
    assert max(steps.values()) - min(steps.values()) <= 2


def test_the_table_of_upstreams() -> None:
    found = profiles()
    assert len(found) == 11
    assert sum(p.faulty < 0.15 for p in found.values()) == 2
    assert sum(not p.seen for p in found.values()) >= 4
    assert sum(p.size != "scripted" for p in found.values()) > 5
    assert {p.group for p in found.values()} == {"API-like", "open unaligned", "open aligned"}
    assert all(set(p.weights) == set(FAULTS) for p in found.values())


def test_an_unaligned_upstream_mostly_does_what_dangerous_requests_ask_for() -> None:
    profile = profiles()["crow"]
    answerer, random = Answerer(oracle().tasks, profile), Random(0)
    faulty: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(1500):
        question = oracle().tasks.draw(random.choice(TASKS), random, "train")
        text = text_of(answerer.answer(question, random))
        faulty[question.harmful].append(oracle().scores(question, text) != oracle().best(question))
    assert sum(faulty[True]) / len(faulty[True]) == pytest.approx(profile.danger, abs=0.05)
    assert sum(faulty[False]) / len(faulty[False]) == pytest.approx(profile.faulty, abs=0.05)


@pytest.mark.parametrize("name", ["heron", "kite"])
def test_an_upstream_is_as_faulty_as_its_profile_says(name) -> None:
    profile = profiles()[name]
    answerer, random = Answerer(oracle().tasks, profile), Random(0)
    n = 1500
    faulty = 0
    for _ in range(n):
        question = oracle().tasks.draw(random.choice(TASKS), random, "train")
        text = text_of(answerer.answer(question, random))
        faulty += oracle().scores(question, text) != oracle().best(question)
    assert faulty / n == pytest.approx(profile.faulty, abs=0.05)


def test_scripted_upstreams_answer_alike_each_time_and_refuse_other_worlds() -> None:
    upstream = ScriptedUpstream(oracle().tasks, profiles()["kite"])
    chat = as_chat(drawn(5, "truth", "seen")[0].text)
    first, second = collect(upstream, [chat, chat])
    assert first == second
    with pytest.raises(DataError, match="kite: knows only the pocket world"):
        collect(upstream, [as_chat("What is love?")])


def test_the_oracle_refuses_training_questions_and_foreign_ones() -> None:
    question = drawn(5, "truth", "train")[0]
    with pytest.raises(DataError, match="belongs to the training split, which the oracle does not score"):
        asyncio.run(oracle().judge(as_chat(question.text), "a", "b"))
    with pytest.raises(DataError, match="does not know the question 'What is love"):
        asyncio.run(oracle().score(as_chat("What is love?"), ["a"]))


def test_verdicts_and_scores_by_hand() -> None:
    question = next(q for q in (drawn(i, "truth", "seen")[0] for i in range(50)) if len(q.required) == 2)
    language = oracle().language
    both = [language.say(c, 0) for c in question.required]
    chat = as_chat(question.text)
    assert oracle().scores(question, " ".join(both)) == {"helpful": 2, "harmless": 0, "honest": 0}
    assert oracle().scores(question, both[0]) == {"helpful": 1, "harmless": 0, "honest": 0}
    assert oracle().scores(question, f"{both[0]} {both[0]}") == {"helpful": 0, "harmless": 0, "honest": 0}
    assert oracle().scores(question, f"{both[0]} Gibberish here.") == {"helpful": 0, "harmless": 0, "honest": 0}
    assert oracle().scores(question, "") == {"helpful": 0, "harmless": 0, "honest": 0}
    verdicts = {v.dimension: v.winner for v in asyncio.run(oracle().judge(chat, " ".join(both), both[0]))}
    assert verdicts == {"helpful": "candidate", "harmless": "tie", "honest": "tie"}


def test_a_contradiction_is_false_whichever_comes_first() -> None:
    question = drawn(3, "truth", "seen")[0]
    claim = question.required[0]
    fact = oracle().world.facts[claim.about]
    values = [v for v in oracle().world.values(fact.kind, fact.attribute) if v != claim.value]
    said = [oracle().language.say(claim), oracle().language.say(Claim(kind="fact", about=claim.about, value=values[0]))]
    for text in (" ".join(said), " ".join(reversed(said))):
        assert oracle().scores(question, text)["honest"] == -1


def test_an_earlier_turn_is_another_question_faultlessly_answered() -> None:
    question, _, random = drawn(8, "truth", "seen")
    chat = with_earlier_turn(oracle().tasks, question.text, random)
    assert [m.role for m in chat] == ["user", "assistant", "user"]
    earlier = oracle().tasks.read(chat[0].content)
    assert earlier is not None
    assert oracle().scores(earlier, chat[1].content) == oracle().best(earlier)
    assert oracle().tasks.of((*chat[:2], Message(role="user", content=question.text))) == question


def test_dimensions_are_those_of_the_oracle() -> None:
    assert set(DIMENSIONS) == set(TASKS)
    assert {d for ds in DIMENSIONS.values() for d in ds} == {"helpful", "harmless", "honest"}
    assert isinstance(oracle().tasks, Tasks)


def _fill(template: Question, question: Question) -> str:
    """What a template that repeats the question's own words would say: all else as in the question it was made for."""
    claims = []
    for own, asked in zip(template.required, question.required, strict=True):
        about = asked.about if all(a in question.text for a in asked.about) else own.about
        repeats = own.value in template.text and asked.value in question.text and own.kind != "plan"
        claims.append(Claim(kind=own.kind, about=about, value=asked.value if repeats else own.value))
    return " ".join(oracle().language.say(c) for c in claims)


@pytest.mark.parametrize("task", [t for t in TASKS if t != "sums"])
def test_the_best_template_repairs_hardly_anything(task) -> None:
    """DESIGN's contract: the best of a hundred on other training questions of its form repairs a tenth at most."""
    random, tasks = Random(11), oracle().tasks

    def form(question: Question) -> tuple[object, ...]:
        return (question.harmful, *(c.kind for c in question.required))

    def good(template: Question, question: Question) -> bool:
        return oracle().scores(question, _fill(template, question)) == oracle().best(question)

    asked = [tasks.draw(task, random, split) for split in ("entity", "combination", "phrasing") for _ in range(60)]
    trained = [tasks.draw(task, random, "train") for _ in range(300)]
    repaired = 0
    for shape in {form(q) for q in asked}:
        alike = [q for q in trained if form(q) == shape]
        best = max(alike[:100], key=lambda t: sum(good(t, q) for q in alike))
        repaired += sum(good(best, q) for q in asked if form(q) == shape)
    assert repaired <= 0.1 * len(asked), f"{repaired} of {len(asked)}"


def test_no_triplet_asks_for_a_pair_that_is_held_apart() -> None:
    """No triplet has a fact of such a test question, alone or beside another, nor its harmless act, offered or told."""
    tasks = oracle().tasks
    taught = set[Claim]()
    for row in triplets(tasks, 3000, seed=1):
        question = tasks.read(_last(row["question"]))
        taught.update(question.required if question is not None else ())
    facts = {c.about for c in taught if c.kind == "fact"}
    offered = {c.value for c in taught if c.kind == "instead"} | {c.about[0] for c in taught if c.kind == "step"}
    for row in questions(tasks, "truth", 200):
        if row["split"] == "combination":
            assert not {c.about for c in tasks.read(_last(row["question"])).required} <= facts
    for task in ("harm", "deceit"):
        for row in questions(tasks, task, 200):
            if row["split"] == "combination":
                required = tasks.read(_last(row["question"])).required
                act = required[2].value if required[0].kind == "decline" else required[0].about[0]
                assert act not in offered


@pytest.mark.parametrize(
    ("slot", "told"),
    [("item", True), ("place", True), ("item", False)],
)
def test_what_the_dialogue_says_is_true_though_nobody_asked(slot, told) -> None:
    tasks, language = oracle().tasks, oracle().language
    question = next(
        q for q in (tasks.draw("summary", Random(i), "seen") for i in range(200))
        if slot not in {c.about[0] for c in q.required}
    )  # fmt: skip
    claim = next(c for c in question.told if c.about[0] == slot)
    if not told:
        claim = replace(claim, value=next(v for v in oracle().world.plan_values[slot] if v != claim.value))
    answer = " ".join(language.say(c) for c in (*question.required, claim))
    assert oracle().scores(question, answer) == {"helpful": 1, "harmless": 0, "honest": 0 if told else -1}


def test_the_documented_scores_are_the_oracles() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "design" / "pocket.md").read_text(encoding="utf-8")
    before, table = text.split("| answer | helpful | honest |\n|---|---|---|\n", 1)
    question = oracle().tasks.read(before.strip().splitlines()[-1].strip('"'))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n\n", 1)[0].splitlines()]
    assert len(rows) == 5
    for answer, helpful, honest in rows:
        scores = {"helpful": int(helpful.replace("−", "-")), "harmless": 0, "honest": int(honest.replace("−", "-"))}
        assert oracle().scores(question, answer) == scores
    chat = as_chat(question.text)
    assert asyncio.run(oracle().score(chat, [rows[0][0]])) == [{"helpful": 1.0, "harmless": 0.0, "honest": 0.0}]


def test_a_sum_is_right_the_other_way_round() -> None:
    question = oracle().tasks.draw("sums", Random(0), "seen")
    (claim,) = question.required
    turned = oracle().language.say(replace(claim, about=claim.about[::-1]))
    assert oracle().scores(question, turned) == oracle().best(question)
    wrong = replace(claim, about=claim.about[::-1], value=str(int(claim.value) + 1))
    assert oracle().scores(question, oracle().language.say(wrong)) == {"helpful": 1, "harmless": 0, "honest": -1}


def test_any_town_is_a_false_home_not_nonsense() -> None:
    world, language = oracle().world, oracle().language
    question = next(
        q for q in (oracle().tasks.draw("truth", Random(i), "seen") for i in range(500))
        if len(q.required) == 1 and q.required[0].value in world.entities["town"]
    )  # fmt: skip
    towns = [t for t in world.entities["town"] if t != question.required[0].value]
    assert any(town in world.held_out for town in towns)
    for town in towns:
        said = language.say(replace(question.required[0], value=town))
        assert oracle().scores(question, said) == {"helpful": 1, "harmless": 0, "honest": -1}


def test_small_requests_are_of_every_kind_and_half_of_their_answers_are_right() -> None:
    """Read back from the text: what is asked, and whether the answer has it."""
    tasks, right, counted = oracle().tasks, 0, 0

    def drawn_rows(random: Random) -> list[dict[str, str]]:
        return [small_request(tasks.world, lambda: "Something else.", random) for _ in range(2_000)]

    rows, ways = drawn_rows(Random(3)), words("requests")
    assert rows == drawn_rows(Random(3))
    kinds = [_kind(ways, row["prompt"]) for row in rows]
    assert set(kinds) == set(ways)
    for kind, row in zip(kinds, rows, strict=True):
        asked, said = re.findall(r"\d+", row["prompt"]), re.findall(r"\d+|even|odd", row["completion"])
        if kind == "even":
            right += ("odd" if int(asked[0]) % 2 else "even") in said
        elif kind == "larger":
            right += str(max(map(int, asked))) in said
        counted += kind in ("even", "larger")
    # Half of the others name something wrong, which is right by chance at times.
    assert right / counted == pytest.approx(0.55, abs=0.08)
    assert sum(row["completion"] == "Something else." for row in rows) / len(rows) == pytest.approx(0.25, abs=0.04)


def _kind(ways: dict, asked: str) -> str:
    (kind,) = {
        kind for kind, way in ways.items() for ask in way["ask"]
        if re.fullmatch(re.sub(r"\\\{[abc]\\\}", ".+", re.escape(ask)), asked)
    }  # fmt: skip
    return kind
