"""Revise: answer, critique, revision, over scripted upstreams and a real tiny one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from aligner import Completion, HFGenerator, Message, Sampling, ScriptedGenerator
from aligner.errors import GenerationError
from aligner.generate.collect import collect, run_sync
from aligner.generate.method import Method
from aligner.generate.revise import Critique, Revise, Revision
from aligner.types import Chat, Generator, Usage
from tests.models import byte_bpe_tokenizer, tiny_model


def user(text: str) -> Chat:
    return (Message(role="user", content=text),)


def method(*names: str, **settings: Any) -> Method:
    changes = settings.pop("each", {})
    principles = [
        {
            "name": name,
            "critique": f"{name}? {{question}} | {{answer}}",
            "passes": "Yes",
            "fails": "No",
            "revise": f"again {name}: {{question}} | {{answer}} | {{critique}}",
            **changes,
        }
        for name in names or ("kind",)
    ]
    return Method.from_dict({"name": "m", "principles": principles, **settings})


class Model:
    """Answers by rules on what it is asked, and remembers each call's requests."""

    name = "model"

    def __init__(self, *rules: tuple[str, str | Completion | Callable[[str], str]]) -> None:
        self.rules, self.calls = rules, []  # type: ignore[var-annotated]

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        asked = [chat[-1].content for chat in chats]
        self.calls.append(asked)
        for i in reversed(range(len(asked))):  # in any order but theirs
            said = next(rule for begin, rule in self.rules if asked[i].startswith(begin))
            if isinstance(said, Completion):
                yield i, said
            else:
                text = said if isinstance(said, str) else said(asked[i])
                yield i, Completion(text=text, finish_reason="stop", usage=Usage(prompt_tokens=10, completion_tokens=2))


def revised(model: Generator, how: Method, pairs: Sequence[tuple[str, str]], **options: Any) -> list[Revision]:
    async def gather() -> dict[int, Revision]:
        made = Revise(model, how, **options).revise(((user(q), a) for q, a in pairs), Sampling())
        return {i: revision async for i, revision in made}

    found = run_sync(gather())
    assert sorted(found) == list(range(len(pairs)))
    return [found[i] for i in range(len(pairs))]


def test_answer_critique_revision() -> None:
    model = Model(
        ("kind?", lambda text: "No, rude." if text.endswith("bad") else "Yes."),
        ("again kind: ", lambda text: f"better ({text.removeprefix('again kind: ')})"),
        ("", lambda text: "bad" if text == "q1" else "good"),
    )
    revise = Revise(model, method())
    assert revise.name == "model+m"
    found = collect(revise, [user("q0"), user("q1")])
    assert [c.text for c in found] == ["good", "better (q1 | bad | No, rude.)"]
    assert [c.usage for c in found] == [
        Usage(prompt_tokens=20, completion_tokens=4), Usage(prompt_tokens=30, completion_tokens=6),
    ]  # fmt: skip
    assert [c.finish_reason for c in found] == ["stop", "stop"]
    assert [sorted(call) for call in model.calls] == [
        ["q0", "q1"], ["kind? q0 | good", "kind? q1 | bad"], ["again kind: q1 | bad | No, rude."],
    ]  # fmt: skip


def test_answers_that_exist_are_not_asked_for() -> None:
    model = Model(("kind?", "No."), ("again", "better"))
    (found,) = revised(model, method(), [("q", "bad")])
    assert found == Revision(
        text="better",
        usage=Usage(prompt_tokens=20, completion_tokens=4),
        critiques={"kind": Critique(text="No.", passed=False)},
    )
    assert model.calls == [["kind? q | bad"], ["again kind: q | bad | No."]]


def test_a_window_is_two_calls_and_no_more_is_read() -> None:
    model = Model(("kind?", lambda text: "Yes." if "3" in text else "No."), ("again", lambda text: text[-12:]))
    read: list[int] = []

    def pairs() -> Iterator[tuple[Chat, str]]:
        for i in range(10):
            read.append(i)
            yield user(f"q{i}"), f"a{i}"

    async def first() -> tuple[int, Revision]:
        made = Revise(model, method(), window=4).revise(pairs(), Sampling())
        found = await anext(made)
        await made.aclose()
        return found

    assert run_sync(first())[0] == 3, "what passes is told before the others are revised"
    assert read == [0, 1, 2, 3]
    assert len(model.calls) == 1, "what is left is not asked for"
    model.calls.clear()
    revised(model, method(), [(f"q{i}", f"a{i}") for i in range(10)], window=4)
    assert [len(call) for call in model.calls] == [4, 3, 4, 4, 2, 2]


@pytest.mark.parametrize(("by", "critique"), [("all", "No, cold.\n\nNo, wrong."), ("first", "No, cold.")])
def test_all_principles_and_one_revision(by, critique) -> None:
    model = Model(
        ("kind?", "No, cold."),
        ("safe?", "Yes."),
        ("true?", "No, wrong."),
        ("again", lambda text: text.removeprefix("again kind: q | a | ")),
    )
    (found,) = revised(model, method("kind", "safe", "true", revise_by=by), [("q", "a")])
    assert found.text == critique
    assert list(found.critiques) == ["kind", "safe", "true"]
    assert [c.passed for c in found.critiques.values()] == [False, True, False]
    assert found.usage == Usage(prompt_tokens=40, completion_tokens=8)
    assert [len(call) for call in model.calls] == [3, 1]


def test_one_drawn_principle_is_asked_about() -> None:
    how = method("kind", "safe", "true", draw="one")
    model = Model(("kind?", "Yes."), ("safe?", "Yes."), ("true?", "Yes."))
    pairs = [(f"q{i}", "a") for i in range(30)]
    found = revised(model, how, pairs, seed=5)
    assert [list(r.critiques) for r in found] == [[how.drawn(q, a, 5)[0].name] for q, a in pairs]
    other = revised(model, how, pairs, seed=6)
    assert [list(r.critiques) for r in found] != [list(r.critiques) for r in other]


def test_without_passes_every_answer_is_revised() -> None:
    model = Model(("kind?", "It is fine."), ("again", "better"))
    (found,) = revised(model, method(each={"passes": None, "fails": None}), [("q", "a")])
    assert (found.text, found.critiques["kind"].passed) == ("better", None)


def test_a_critique_that_says_nothing_leaves_the_answer_alone() -> None:
    (found,) = revised(Model(("kind?", "Perhaps.")), method(), [("q", "a")])
    assert (found.text, found.kept_because, found.error) == ("a", None, None)
    assert found.critiques == {"kind": Critique(text="Perhaps.", passed=None)}


def test_a_drawn_sentence_stands_for_the_critique() -> None:
    model = Model(("kind?", "No."), ("again", "better"))
    revised(model, method(each={"critiques": ["It is cold."]}), [("q", "a")])
    assert model.calls[1] == ["again kind: q | a | It is cold."]


def failing(error: str | None = "overloaded", reason: Any = "error") -> Completion:
    return Completion(text="", finish_reason=reason, error=error, usage=Usage(prompt_tokens=1))


@pytest.mark.parametrize(
    ("rules", "kept", "error"),
    [
        ((("kind?", "No."), ("again", " \n")), "emptied", None),
        ((("kind?", "No."), ("again", Completion(text="bett", finish_reason="length"))), "cut", None),
        ((("kind?", "No."), ("again", failing())), "error", "the revision failed: overloaded"),
        ((("kind?", failing()),), "error", "the critique by 'kind' failed: overloaded"),
        (
            (("kind?", failing(None, "cancelled")),),
            "error",
            "the critique by 'kind' failed: the upstream stopped (cancelled)",
        ),
    ],
)
def test_a_revision_that_cannot_be_used_keeps_the_answer_and_says_why(rules, kept, error) -> None:
    (found,) = revised(Model(*rules), method(), [("q", "a")])
    assert (found.text, found.kept_because, found.error) == ("a", kept, error)
    completions = collect(Revise(Model(*rules, ("", "a")), method()), [user("q")])
    assert (completions[0].text, completions[0].finish_reason, completions[0].error) == ("a", "stop", error)


def test_one_failed_critique_of_several_stops_the_revision() -> None:
    model = Model(("kind?", "No."), ("safe?", failing()))
    (found,) = revised(model, method("kind", "safe"), [("q", "a")])
    assert found.critiques["safe"] == Critique(text="", passed=None, error="overloaded")
    assert found.error == "the critique by 'safe' failed: overloaded"
    assert len(model.calls) == 1


def test_failed_answers_pass_through() -> None:
    model = ScriptedGenerator(lambda chat: failing() if chat[0].content == "q1" else "Yes.")
    found = collect(Revise(model, method(), name="mine"), [user("q0"), user("q1")])
    assert [(c.text, c.finish_reason, c.error) for c in found] == [
        ("Yes.", "stop", None), ("", "error", "overloaded"),
    ]  # fmt: skip


def test_what_the_upstream_forgets_has_failed() -> None:
    class Forgetting(Model):
        async def generate(self, chats, sampling):
            async for i, completion in super().generate(chats, sampling):
                if i != 1:
                    yield i, completion

    found = revised(Forgetting(("kind?", "Yes.")), method(), [("q", "a")] * 3)
    assert [r.error for r in found] == [None, "the critique by 'kind' failed: the upstream gave no answer", None]


def test_a_batch_that_fails_is_heard() -> None:
    class Broken(Model):
        async def generate(self, chats, sampling):
            raise GenerationError("the server is gone")
            yield

    with pytest.raises(GenerationError, match="the server is gone"):
        revised(Broken(), method(), [("q", "a")])


def test_white_space_is_no_revision_and_braces_are_text() -> None:
    model = Model(("kind?", "No."), ("again kind: {answer} | {critique}\n | No.", "{critique}"))
    (found,) = revised(model, method(), [("{answer}", "{critique}\n")])
    assert found.text == "{critique}\n"


def test_no_answers_ask_for_nothing() -> None:
    model = Model()
    assert revised(model, method(), []) == []
    assert collect(Revise(model, method()), []) == []
    assert model.calls == []


def test_a_real_model_revises_as_if_it_were_asked_step_by_step() -> None:
    tokenizer = byte_bpe_tokenizer()
    model = HFGenerator(tiny_model("llama", tokenizer, seed=2), tokenizer, name="tiny", batch_size=4)
    how = method(each={"passes": None, "fails": None})
    chats, sampling = [user(f"question {i}?") for i in range(6)], Sampling(max_new_tokens=8)
    answers = collect(model, chats, sampling)
    critiques = collect(
        model, [user(f"kind? {c[0].content} | {a.text}") for c, a in zip(chats, answers, strict=True)], sampling
    )
    again = [
        user(f"again kind: {c[0].content} | {a.text} | {k.text.strip()}")
        for c, a, k in zip(chats, answers, critiques, strict=True)
    ]
    revisions = collect(model, again, sampling)
    found = collect(Revise(model, how), chats, sampling)
    for answer, critique, revision, got in zip(answers, critiques, revisions, found, strict=True):
        whole = revision.finish_reason == "stop" and revision.text.strip()
        assert got.text == (revision.text.strip() if whole else answer.text)
        assert got.usage == answer.usage + critique.usage + revision.usage
