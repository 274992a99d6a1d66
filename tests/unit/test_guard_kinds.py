"""Each guard fires on its own damage and on no other's; a copy fires none; the policy says what follows."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.correct import guards
from aligner.correct.guards.check import _FIRES, Corrected
from aligner.errors import ConfigError
from aligner.types import GuardName

ANSWER = r"""The area of a circle grows with the square of its radius, as was shown (Heath et al., 1921) in a book.
We use the constant from the standard tables [1], and we round it to 3.14 for this example.

With a radius $r = 20$ the area is $$A = \pi r^2$$ and that is all there is to it.

| radius | area of it |
|---|---|
| small | rather little |
| large | quite a lot |

```python
def area(radius):
    return 3.14 * radius ** 2
```

See https://example.org/circles for more about the subject, and do not forget the footnote that explains it.[^1]

[^1]: Nobody knows it better than the old Greeks did.
"""
QUESTION = "How large is a circle?"
BASE = Corrected(question=QUESTION, answer=ANSWER, correction=ANSWER)
JSON = '{"name": "Ada", "born": 1815}'
LONG = " ".join(f"word{i} and" for i in range(40)) + " end."
GERMAN = "Das ist die Antwort auf die Frage, und sie ist nicht sehr lang, aber wir haben sie für dich geschrieben."
ENGLISH = "This is the answer to the question, and it is not very long, but we have written it for you."

DAMAGE: dict[GuardName, list[Corrected]] = {
    "cut": [replace(BASE, correction=ANSWER.rstrip().removesuffix(" did."))],
    "emptied": [replace(BASE, correction=" \n")],
    "broken_format": [
        replace(BASE, answer=JSON, correction=JSON[:-1] + ",}"),
        replace(BASE, answer=JSON, correction=f"Here it is: {JSON}"),
        replace(BASE, answer=f"[{JSON}, {JSON}]", correction=f"[{JSON} {JSON}]"),
        replace(BASE, answer=f"```json\n{JSON}\n```", correction=f"```json\n{JSON[1:]}\n```"),
        replace(BASE, answer=JSON, correction=JSON.replace("1815", "NaN")),
    ],
    "script_leak": [replace(BASE, correction=ANSWER.replace("that is all", "that is 全 all"))],
    "changed_language": [replace(BASE, question=QUESTION, answer=ENGLISH, correction=GERMAN)],
    "repeated": [
        replace(BASE, correction=ANSWER.replace("See https", "A long word or two. A long word or two. See https")),
        replace(BASE, answer=ENGLISH, correction=f"{ENGLISH} {ENGLISH}"),
    ],
    "collapsed": [replace(BASE, answer=LONG, correction="It is.")],
    "unbalanced_fence": [replace(BASE, correction=ANSWER.replace("** 2\n```\n", "** 2\n"))],
    "lost_code_fence": [replace(BASE, correction=ANSWER.replace("```python\n", "").replace("```\n", ""))],
    "lost_table": [
        replace(BASE, correction=ANSWER.replace("|---|---|\n", "")),
        replace(BASE, correction=ANSWER.replace("|---|---|\n", "").replace("|", "")),
    ],
    "lost_latex": [
        replace(BASE, correction=ANSWER.replace("$$A = \\pi r^2$$", "A = \\pi r^2")),
        replace(BASE, correction=ANSWER.replace("r^2$$", "r^2")),
        replace(BASE, answer="So \\begin{align}x\\end{align} is.", correction="So \\begin{align}x is."),
    ],
    "lost_citation": [
        replace(BASE, correction=ANSWER.replace(" [1]", "")),
        replace(BASE, correction=ANSWER.replace(" (Heath et al., 1921)", "")),
        replace(BASE, correction=ANSWER.replace("it.[^1]", "it.")),
        replace(BASE, correction=ANSWER.replace("[^1]: Nobody knows it better", "Nobody knows it better")),
    ],
    "changed_numbers": [replace(BASE, correction=ANSWER.replace("to 3.14 for", "to 3.41 for"))],
    "changed_urls": [replace(BASE, correction=ANSWER.replace("example.org/circles", "example.org/squares"))],
}


def fired(it: Corrected) -> set[str]:
    return {name for name, fires in _FIRES.items() if fires(it)}


def test_every_guard_is_here_and_in_the_policy() -> None:
    names = list(get_args(GuardName))
    assert set(names) == set(DAMAGE) == set(_FIRES) == set(guards.GuardPolicy.model_fields)


@pytest.mark.parametrize(("name", "it"), [(name, it) for name, cases in DAMAGE.items() for it in cases])
def test_each_fires_on_its_own_damage_and_no_other_does(name: GuardName, it: Corrected) -> None:
    assert fired(it) == {name}
    assert fired(replace(it, correction=it.answer)) == set(), "a copy"
    assert fired(replace(it, answer=it.correction)) == set(), "what was so before is not held against it"


@pytest.mark.parametrize(
    "correction",
    [
        ANSWER.replace("large", "wide"),
        ANSWER.replace("and that is all there is to it", "which ends it"),
        ANSWER.replace("See https://example.org/circles for more about the subject, and do", "Do"),
        ANSWER.replace("We use the constant from the standard tables [1], and we", "We"),
        ANSWER.replace("| large | quite a lot |\n", ""),
        ANSWER + "\nCall 911 or see https://example.com/help at once.",
        "I cannot help with that.",
        "\n".join(line for line in ANSWER.splitlines() if "|" not in line),
        "1. First, this.\n2. " + ANSWER,
        ANSWER + "\nNever mind. Never mind.",
        ANSWER + "\nSing it all day long.\nAnd sing it all night, too.\nSing it all day long.",
        ANSWER + "\n- Salt and pepper to your taste.\n- Salt and pepper to your taste.",
        ANSWER.replace("| large", "| small | rather little |\n| large"),
        ANSWER.replace("    return", "    radius = radius + 0 * 1\n" * 2 + "    return"),
        ANSWER.replace("3.14 for", "3.140 for"),
    ],
)
def test_honest_edits_fire_nothing(correction: str) -> None:
    assert fired(replace(BASE, correction=correction)) == set()


@pytest.mark.parametrize(
    ("answer", "correction"),
    [
        ("The Eiffel Tower in Paris (completed in 1887) is.", "The Eiffel Tower in Paris (completed in 1889) is."),
        ("The physicist Albert Einstein (born in 1878) knew.", "The physicist Albert Einstein (born in 1879) knew."),
        ("All of it is attention (Vaswani et al., 2018).", "All of it is attention (Vaswani et al., 2017)."),
        ("The dose is safe in adults [3].", "The dose is safe in adults [3, 4]."),
        ("It is bad for you [1]. It is safe in most adults [2].", "It is safe in most adults [1]."),
        ("It is safe in adults [1]. Nobody knows it yet [2].\n\n[1] A. Book of all adults.\n[2] B. Paper.",
         "It is safe in adults [1].\n\n[1] A. Book of all adults."),
        ("The function returns the list [1, 2, 3].", "The function returns the list `[1, 2, 4]`."),
        ("The function returns the list [1, 2, 3].", "The function returns the list. It is sorted."),
        ("As in [4], x lies in the interval [0, 1].", "As in [4], x lies in the interval."),
        ("So x lies in the interval [0, 1].", "So x lies in the interval (0, 1)."),
        ("As in [4], x lies in the interval [1, 2].", "As in [4], x lies in the interval $(1, 2)$."),
        ("The treaty was signed in Paris (March 1783).", "The treaty was signed in Paris (3 September 1783)."),
        ("The treaty was signed in Paris (March 1783).", "The treaty was signed in Paris (1783)."),
        ("The treaty was signed in Paris (March 1783).", "The treaty was signed in Paris."),
        ("They met in the old hall (Summer 1919).", "They met in the old hall."),
        ("It was built for the fair (Paris, 1889).", "It was built for the fair in Paris in 1889."),
        ("It was shown in two papers (Smith, 2019).", "It was shown in two papers by Smith in 2019."),
        ("It is safe in adults [1]. Is it safe in adults?", "It is safe in adults [2]. Is it safe in adults?"),
    ],
)  # fmt: skip
def test_a_citation_that_became_another_is_not_lost(answer: str, correction: str) -> None:
    assert not guards.loses_citation(answer, correction)


@pytest.mark.parametrize("citation", [
    "(van der Berg, 2019)", "(see Heath, 1921, p. 5)", "(Heath 1921)", "(March, 1991)", "(March et al., 1991)",
    "(June Smith, 2020)", "[3]", "[1, 2]", "[4-6]",
])  # fmt: skip
def test_a_citation_that_is_gone_is_lost_though_the_list_of_them_stands(citation: str) -> None:
    answer = f"It is safe in adults {citation}. Is it not?\n\n{citation} A book."
    assert guards.loses_citation(answer, answer.replace(f" {citation}.", "."))


@pytest.mark.parametrize(
    ("answer", "correction"),
    [
        ("It is safe, as shown in [3].", "It is safe, as shown in."),
        ("It is safe, as shown in [3]. (Nobody knows why.)", "It is safe, as shown in. (Nobody knows why.)"),
        ("It is old [1]. It is safe in most adults [2, 3].", "It is old [1]. It is safe in most adults."),
        ("In March 1783 it was shown by one man (Heath, 1784).", "In March 1783 it was shown by one man."),
    ],
)
def test_a_citation_that_is_gone_is_lost(answer: str, correction: str) -> None:
    assert guards.loses_citation(answer, correction)


def test_money_is_no_mathematics() -> None:
    it = replace(BASE, answer="It costs $5 and then $10.", correction="It costs $5, and a^b or x_{i} is \\frac.")
    assert fired(it) == set()


@pytest.mark.parametrize(
    ("answer", "correction", "changed"),
    [
        ("It is -5 degrees.", "It is 5 degrees.", True),
        ("It is (−5) now.", "It is (5) now.", True),
        ("It is −5.0 now.", "It is -5 now.", False),
        ("It takes 5% of it.", "It takes 5 of it.", True),
        ("It takes 5% of it.", "It takes 5 percent of it.", False),
        ("It takes 5-10 days.", "It takes 5 to 10 days.", False),
        ("It takes 5–10% of it.", "It takes 5% to 10% of it.", False),
        ("It was on 2020-01-05.", "It was on 2020/01/05.", False),
        ("Take a GPT-4 or so.", "Take a GPT 4 or so.", False),
    ],
)
def test_signs_and_per_cent_are_of_the_number(answer: str, correction: str, changed: bool) -> None:
    assert guards.changes_numbers("", answer, correction) == changed


@pytest.mark.parametrize(
    ("answer", "correction", "changed"),
    [
        ("See github.com/foo/bar for it.", "See github.com/foo/baz for it.", True),
        ("See github.com/foo/bar for it.", "See https://github.com/foo/bar.", False),
        ("请访问https://example.com/abc获取更多信息", "请访问https://example.com/abc了解详情", False),
        ("请访问https://example.com/abc获取更多信息", "请访问https://example.com/abd获取更多信息", True),
        ("请看（www.example.com/a）。", "请看（www.example.com/a），谢谢。", False),
        ("请看example.com/a。", "请看example.com/b。", True),
        ("Take this and/or that, e.g. one.", "Take this or that, i.e. one.", False),
    ],
)
def test_addresses_end_where_the_words_go_on(answer: str, correction: str, changed: bool) -> None:
    assert guards.changes_urls("", answer, correction) == changed


def test_powers_that_came_new_are_no_lost_mathematics() -> None:
    answer = "The area is $\\pi r^2$."
    assert not guards.loses_latex(answer, f"{answer} A byte has 2^8 values.")
    assert guards.loses_latex(answer, "The area is \\pi r^2. A byte has 2^8 values.")


@pytest.mark.parametrize(
    ("question", "fires"),
    [
        ("What is it?", True),
        ("Antworte bitte auf Deutsch.", False),
        ("Answer in German, please.", False),
        ("Translate it.", False),
        (GERMAN, False),
    ],
)
def test_a_language_that_was_asked_for_may_come(question: str, fires: bool) -> None:
    assert guards.changes_language(question, ENGLISH, GERMAN) == fires


SPANISH = "La capital de Francia es París, y es también la ciudad más grande que hay en todo el país."
JAPANESE = "フランスの首都はパリです。あまり遠くありません。"


@pytest.mark.parametrize(
    ("question", "correction"),
    [
        ("¿Cuál es la capital de Francia?", SPANISH),
        ("Was ist die Hauptstadt von Frankreich?", GERMAN),
        ("首都はどこ?", JAPANESE),
    ],
)
def test_the_language_of_a_short_question_may_come(question: str, correction: str) -> None:
    assert not guards.changes_language(question, ENGLISH, correction)
    assert guards.changes_language("What is the capital of France?", ENGLISH, correction)
    assert guards.changes_language(question, correction, ENGLISH), "the other way round it is damage"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "english"),
        (GERMAN, "german"),
        (
            "C'est la réponse à la question, et elle n'est pas très longue, mais nous l'avons écrite pour vous.",
            "french",
        ),
        ("Esta es la respuesta a la pregunta, y no es muy larga, pero la hemos escrito para que la leas.", "spanish"),
        ("Это ответ на вопрос, и он не очень длинный.", "cyrillic"),
        ("これは質問への答えです。あまり長くありません。", "japanese"),
        ("这是对问题的回答，不太长。", "chinese"),
        ("42", None),
        ("def f(x): return x", None),
    ],
)
def test_languages_are_told_apart(text: str, language: str | None) -> None:
    assert guards.language_of(text) == language


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("form", "correction", "breaks"),
    [
        ({"type": "text"}, "no JSON", False),
        ({"type": "json_object"}, '{"age": 4}', False),
        ({"type": "json_object"}, "[1]", True),
        ({"type": "json_object"}, '```json\n{"age": 4}\n```', True),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, '{"age": 4}', False),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, '{"age": "four"}', True),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, '{"age": 4', True),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "https://example.org/x"}}}, "{}", True),
    ],
)
def test_a_response_format_is_kept_to(form: dict[str, object], correction: str, breaks: bool) -> None:
    wanted = guards.ResponseFormat.parse(form)
    assert guards.breaks_format('{"age": 3}', correction, wanted) == (breaks or form["type"] == "text")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "xml"}, "has the type 'xml'; it must be"),
        ({"type": "json_schema"}, "has no schema; put it"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}, "a schema that is none"),
    ],
)
def test_a_format_that_is_none_is_refused(form: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        guards.ResponseFormat.parse(form)


def test_the_policy_enforces_reports_or_does_not_look() -> None:
    it = DAMAGE["changed_numbers"][0]
    texts = {"question": it.question, "answer": it.answer, "correction": it.correction}
    assert guards.check(**texts, finish_reason="stop") is None
    assert guards.reported(**texts) == ("changed_numbers",)
    strict = guards.GuardPolicy(changed_numbers="enforce")
    assert guards.check(**texts, finish_reason="stop", policy=strict) == "changed_numbers"
    assert guards.reported(**texts, policy=strict) == ()
    cut = guards.GuardPolicy(cut="report", changed_numbers="off")
    assert guards.reported(**texts, finish_reason="length", policy=cut) == ("cut",)
    off = guards.GuardPolicy(changed_numbers="off")
    assert guards.reported(**texts, policy=off) == ()


MARKS = ("$", "$$", "\\(", "\\)", "\\begin{a}", "\\end{a}", "|", "|-|", "\n", "\n\n", " [1]", "[^a]", "(A, 2001)")
OTHERS = ("{", "}", '"a"', ":", "1,000", "http://a.b", "```", "`", "the ", "und ", "x^2", " word")
PIECES = st.sampled_from((*MARKS, *OTHERS))


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join), st.lists(PIECES, max_size=40).map("".join))
def test_a_copy_never_fires_and_nothing_makes_a_guard_fail(text: str, other: str) -> None:
    assert fired(Corrected(question=other, answer=text, correction=text)) == set()
    assert fired(Corrected(question="", answer=text, correction=other)) <= set(_FIRES)


@pytest.mark.parametrize(
    "piece", [*"$|[({\\`#", "$$ ", "[1", "(A, ", "(Aa", "| a ", "1,1", "http://", "\\begin{", "[^", "word "]
)
def test_time_grows_with_the_length_and_no_faster(piece: str) -> None:
    def seconds(size: int) -> dict[str, float]:
        text = piece * (size // len(piece))
        it = Corrected(question=text, answer=f"{text} a$b$ |", correction=f"{text} b$$ |")
        taken = {}
        for name, fires in _FIRES.items():
            begin = time.process_time()
            fires(it)
            taken[name] = time.process_time() - begin
        return taken

    seconds(1000)
    large = seconds(160_000)
    # What is quadratic takes minutes here.
    assert {name for name, taken in large.items() if taken > 3} == set()


def test_json_deeper_than_the_stack_is_no_json() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert not guards.breaks_format(deep, "[]")
    assert guards.breaks_format(json.dumps([1]), deep) in (True, False)


def test_a_million_blank_lines_are_read_once() -> None:
    """If each line's start looked through all that are behind it, this would take the better part of an hour."""
    assert not guards.changes_numbers("", "\n" * 1_000_000 + "1. Wait 5 minutes.", "2. Wait 5 minutes.")
    assert guards.changes_numbers("", "\n\n  > 1. Wait 5 minutes.", "2. Wait 6 minutes.")
