"""Methods: files of prompts, what they refuse, and what they draw."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from aligner import Message
from aligner.errors import ConfigError, DataError
from aligner.generate.method import Method, copy_methods, fill, load_method, shipped
from aligner.pocket.faults import DIMENSION
from aligner.pocket.text import CRITIQUES, PRINCIPLES, judge_request, rewrite_request

PRINCIPLE: dict[str, Any] = {
    "name": "kind",
    "critique": "Is it kind? {question} / {answer}",
    "passes": "Yes",
    "revise": "{question} / {answer} / {critique}",
}


def method(*changes: dict[str, Any], **settings: Any) -> Method:
    principles = [PRINCIPLE | change for change in changes or ({},)]
    return Method.from_dict({"name": "m", "principles": principles, **settings})


@pytest.mark.parametrize("name", shipped())
def test_shipped_methods_come_back_the_same(name, tmp_path) -> None:
    found = load_method(name)
    assert found.name == name
    found.save(tmp_path / "copy.yaml")
    assert load_method(tmp_path / "copy.yaml") == found
    assert {p.dimension for p in found.principles} == {"helpful", "harmless", "honest"}


def test_methods_of_published_baselines() -> None:
    assert set(shipped()) == {"cai", "self-critique", "pocket-cai", "pocket-self-critique"}
    assert {name: load_method(name).draw for name in shipped()} == {
        "cai": "one", "pocket-cai": "one", "self-critique": "all", "pocket-self-critique": "all",
    }  # fmt: skip
    assert [load_method(n).revise_by for n in ("self-critique", "pocket-self-critique")] == ["all", "first"]
    for name in ("cai", "self-critique"):
        for principle in load_method(name).principles:
            for said in ("No change needed.", '"No change needed."', "**No changes are needed**", "no change needed"):
                assert principle.passed(said) is True
            assert principle.passed("The second step is missing. Otherwise no change needed.") is False


@pytest.mark.parametrize("name", ["pocket-cai", "pocket-self-critique"])
def test_pocket_methods_use_the_words_that_pocket_models_learn(name) -> None:
    question, answer = "What is {answer} known for?", "For its {question}."
    found = load_method(name)
    assert [p.name for p in found.principles] == ["helpful", "harmless", "honest"]
    assert {p.name for p in found.principles} == PRINCIPLES.keys()
    for principle in found.principles:
        asked = fill(principle.critique, question=question, answer=answer)
        assert asked == judge_request(question, answer, principle.name)
        assert [principle.passed(said) for said in ("Yes.", "No.", "For its saddles.")] == [True, False, None]
        assert principle.critiques is not None
        for critique in principle.critiques:
            (fault,) = [fault for fault, text in CRITIQUES.items() if text == critique]
            assert DIMENSION[fault] == principle.name  # type: ignore[index]
            rewrite = fill(principle.revise, question=question, answer=answer, critique=critique)
            assert rewrite == rewrite_request(question, answer, critique)


def test_texts_are_filled_in_and_not_looked_at_again() -> None:
    template = "{question}|{answer}|{critique}|{other}|{"
    assert fill(template, question="{answer} {0} {critique}", answer="{question}", critique="c") == (
        "{answer} {0} {critique}|{question}|c|{other}|{"
    )
    assert fill("{question} {critique}", question="q") == "q {critique}"


def test_what_passes() -> None:
    (plain,) = method().principles
    assert [plain.passed(said) for said in ("Yes.", "  Yes", "No.", "", "Oh Yes")] == [True, True, False, False, False]
    (both,) = method({"fails": "No|Never"}).principles
    assert [both.passed(said) for said in ("Yes", "Never.", "Perhaps")] == [True, False, None]
    (always,) = method({"passes": None}).principles
    assert always.passed("Yes") is None
    assert plain.dimension == "kind"
    assert method({"dimension": "helpful"}).principles[0].dimension == "helpful"


def test_one_principle_is_drawn_by_seed_and_content() -> None:
    several = method(*({"name": f"p{i}"} for i in range(4)), draw="one")
    drawn = [several.drawn(f"question {i}", "answer", 3) for i in range(400)]
    assert all(len(d) == 1 for d in drawn)
    counts = Counter(d[0].name for d in drawn)
    assert set(counts) == {"p0", "p1", "p2", "p3"}
    assert min(counts.values()) > 70
    assert drawn == [several.drawn(f"question {i}", "answer", 3) for i in range(400)]
    assert drawn != [several.drawn(f"question {i}", "answer", 4) for i in range(400)]
    assert len({several.drawn("question", f"answer {i}", 3)[0].name for i in range(40)}) == 4
    every = method({}, {"name": "other"}, draw="all")
    assert every.drawn("q", "a", 0) == every.principles


def test_the_sentence_that_stands_for_a_critique() -> None:
    several = method({"critiques": ["one", "two", "three"]})
    (principle,) = several.principles
    drawn = Counter(several.critique_of(principle, "No.", f"q{i}", "a", 0) for i in range(300))
    assert set(drawn) == {"one", "two", "three"}
    assert min(drawn.values()) > 60
    plain = method()
    assert plain.critique_of(plain.principles[0], "It is rude.", "q", "a", 0) == "It is rude."


def test_conversations() -> None:
    chat = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello"),
        Message(role="user", content="Why?"),
    )
    assert method().question(chat) == "User: Hi\nAssistant: Hello\nUser: Why?"
    assert method(turns="last").question(chat) == "Why?"
    assert method().question(chat[:1]) == "Hi"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"critique": "Is it? {question}"}, "'principles.0.critique': it lacks {answer}"),
        ({"critique": "Is it? {anwser}"}, "it lacks {question}, {answer}; write it where that text goes"),
        ({"critique": "{question} {answer} {critique}"}, "only 'revise' can show it"),
        ({"revise": "{question} {answer}"}, "'principles.0.revise': it lacks {critique}"),
        ({"passes": "("}, "'principles.0.passes': it is no regular expression"),
        ({"passes": None, "fails": "No"}, "'fails' goes with 'passes'"),
        ({"name": "all"}, "which stands for all of them"),
        ({"name": " "}, "a principle needs a name"),
        ({"critiques": []}, "'principles.0.critiques'"),
        ({"pass": "Yes"}, "unknown setting 'principles.0.pass'; did you mean 'passes'?"),
    ],
)
def test_what_a_principle_refuses(change, message) -> None:
    with pytest.raises(ConfigError) as e:
        method(change)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draw": "two"}, "'draw'"),
        ({"revise_by": "last"}, "'revise_by'"),
        ({"turns": "none"}, "'turns'"),
        ({"name": ""}, "'name'"),
        ({"principles": []}, "'principles'"),
        ({"principles": [PRINCIPLE, PRINCIPLE]}, "two principles are called 'kind'"),
        ({"drew": "one"}, "unknown setting 'drew'; did you mean 'draw'?"),
    ],
)
def test_what_a_method_refuses(settings, message) -> None:
    with pytest.raises(ConfigError) as e:
        Method.from_dict({"name": "m", "principles": [PRINCIPLE], **settings})
    assert message in str(e.value)


def test_names_and_paths(tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="no method is called 'self-critic'; did you mean 'self-critique'"):
        load_method("self-critic")
    with pytest.raises(ConfigError, match="no such file"):
        load_method(tmp_path / "mine.yaml")
    with pytest.raises(DataError, match="environment variable that is not set"):
        load_method("$NOWHERE_AT_ALL/mine.yaml")
    written = copy_methods(tmp_path / "methods")
    assert {path.name for path in written} == {f"{name}.yaml" for name in shipped()}
    (tmp_path / "methods" / "cai.yaml").write_text("name: mine")
    assert copy_methods(tmp_path / "methods") == []
    monkeypatch.setenv("METHODS", str(tmp_path / "methods"))
    assert load_method("$METHODS/self-critique.yaml") == load_method("self-critique")
    with pytest.raises(ConfigError, match="'principles' is missing"):
        load_method("$METHODS/cai.yaml")
