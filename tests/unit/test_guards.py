"""The guards on texts written for them: what each must catch, and what each must let pass."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aligner.correct import guards
from aligner.correct.guards import scripts
from aligner.correct.outcome import ScriptWatch
from aligner.types import GuardName, as_chat

SENTENCE = "Boil the water first. Then add the rice and wait."
CODE = "def area(radius):\n    return 3.14 * radius ** 2\n\nprint(area(2))"
FENCED = f"Use this:\n\n```python\n{CODE}\n```\n\nIt prints the area."

# Characters that matter to some guard, so that random texts meet the rules and not only the fallbacks.
MARKS = [
    "```",
    "~~~",
    "\n",
    "\r\n",
    "\t",
    " ",
    "- ",
    "2. ",
    "# ",
    ".",
    "…",
    "。",
    "，",
    "।",
    "،",
    '"',
    "(",
    ")",
    ":",
    "|",
]
WORDS = [
    "αβγ",
    "ή",
    "кот",
    "寿司",
    "ひ",
    "ด",
    "\u0301",
    "\u200b",
    "\ufe0f",
    "\ud800",
    "😀",
    "chinese",
    "word",
    "42",
    "=",
]
PIECES = st.sampled_from((*MARKS, *WORDS))
ANY_TEXT = st.lists(st.one_of(PIECES, st.text(st.characters(), max_size=4)), max_size=40).map("".join)


def cut(correction: str, answer: str = SENTENCE) -> bool:
    return guards.is_cut(answer, correction, "stop")


@pytest.mark.parametrize(
    "ending",
    [
        "Then add the rice and",
        "Then add the rice an",
        "Then add 42",
        "Then add the rice,",
        "Then add the following:",
        "Then add the rice (",
        "Then add the rice (and salt",
        "Then add the rice and pay $",
        "Then add the rice —",
        "Then add the rice -",
        "Then add the rice and\n\n",
        "Then add the rice and\u200b",
        "Then add the rice and\\\\",
        "### Adding the rice",
        "**Add the rice:**",
        "1. Add the rice.\n2.",
        "1. Add the rice.\n- ",
    ],
)
def test_a_text_that_stops_inside_a_sentence_is_cut(ending: str) -> None:
    assert cut(f"Boil the water before all else.\n\n{ending}")


@pytest.mark.parametrize(
    "ending",
    [
        "Then wait.",
        "Then wait!",
        "Ready?",
        "And then…",
        "And then...",
        'He said "wait."',
        "He said “wait.”",
        "(Then wait.)",
        "**Then wait.**",
        "_Then wait!_",
        "`Then wait.`",
        "Then wait. 🍚",
        "Then wait. ❤️",
        "Then wait 🍚",
        "<p>Then wait.</p>",
        "Then wait.\\\\",
        "Then wait.\u200b\n",
        "然后等待。",
        "待ちます！",
        "फिर रुको।",
        "پھر انتظار کریں۔",
        "ثم انتظر؟",
        "እና ይጠብቁ።",
        "So sad :(",
        "| rice | water |",
        "rice | 200 g",
        "Read https://example.org/rice",
        "Read https://example.org/rice/",
        "Read www.example.org/rice?cup=2",
        "Write to cook@example.org",
        "#rice #cooking",
        "x = 42",
        "\\frac{1}{2}",
        "Kind regards,\nMaria",
        "Kind regards,\n[Your Name]",
    ],
)
def test_a_text_that_is_whole_is_not_cut(ending: str) -> None:
    assert not cut(f"Boil the water before all else.\n\n{ending}")


@pytest.mark.parametrize(
    ("answer", "correction"),
    [
        ("The answer is 42.", "42"),
        ("The capital of France is Paris.", "Paris"),
        ("The capital of France is Paris. It lies on the Seine.", "Paris, France"),
        ("It is about 3.14159.", "3.14"),
        ("Yes, it is. Of course.", "Yes"),
        ("Yes it is. Of course.", "Yes"),
        ("The lamp is on fire.", "The lamp is not on fire"),
        ("you are an idiot , go away .", "I would like you to go away"),
        ("法国的首都是巴黎。", "巴黎"),
    ],
)
def test_bare_answers_and_lone_sentences_need_no_stop(answer: str, correction: str) -> None:
    assert not cut(correction, answer)


@pytest.mark.parametrize(
    ("answer", "correction"),
    [
        ("The capital of France is Paris.", "The capital of"),
        ("The capital of France is Paris.", "The capital city of France is"),
        ("I think that is fine. Go on.", "I am sorry but that would be a"),
        ("You should do it.", "That is dangerous. I beg you to"),
        ("法国的首都是巴黎。", "法国的首都"),
        ("法国的首都是巴黎。", "亲爱的朋友法国的首"),
    ],
)
def test_a_lone_sentence_that_the_answer_goes_on_from_is_cut(answer: str, correction: str) -> None:
    assert cut(correction, answer)


def test_list_items_may_lack_a_stop_where_those_of_the_answer_do() -> None:
    phrases = "You need:\n- a pot\n- some rice\n- a stove\n\nEnjoy."
    sentences = "You need:\n- This is a pot.\n- This is some rice.\n- This is a stove.\n\nEnjoy."
    correction = "You need:\n- one pot\n- good rice\n- one hot stove"
    assert not cut(correction, phrases)
    assert cut(correction, sentences)
    assert not cut(correction, "You need a pot, some rice and a stove.")
    assert not cut(f"{correction} that is {'very ' * 12}hot", phrases)
    assert cut(f"{correction} (gas", phrases)


def test_one_item_sets_no_style() -> None:
    correction = "You need:\n- A big pot is needed.\n- Rice is needed too.\n- Some hot"
    assert cut(correction, "You need:\n- a pot\n\nEnjoy.")
    assert not cut(correction, "You need:\n- a pot\n- rice\n\nEnjoy.")


def test_headings_and_lists_set_no_style_for_sentences() -> None:
    answer = "## Water\nBoil it first.\n## Rice\nAdd it then.\n## End\n- salt\n- oil\n- love\n\nEnjoy it."
    assert cut("## Water\nHeat it first.\n## Rice\nThen you stir", answer)
    assert cut("## Water\nHeat it first.\n## Frying", answer)


def test_a_line_of_the_answer_that_is_broken_off_is_cut_even_in_a_list() -> None:
    answer = "You need:\n- a large pot\n- brown rice\n- a stove\n\nEnjoy."
    assert cut("You need:\n- a large pot\n- bro", answer)
    assert not cut("You need:\n- a large pot\n- brown rice", answer)


def test_verses_may_lack_a_stop_where_those_of_the_answer_do_but_paragraphs_may_not() -> None:
    verses = "The rain comes down\nThe river wakes\nThe grass stands up\nAnd morning breaks."
    assert not cut("The rain came down\nThe river woke\nThe grass stood up", verses)
    assert cut("The rain came down\nThe river woke\n\n### Dawn", verses)
    assert cut("The rain came down\nThe river woke\n" + "and the grass stood up and " * 5 + "then", verses)


def test_only_an_answer_that_ended_a_sentence_can_be_cut_by_its_last_character() -> None:
    assert not cut("First boil the water. Then add the", "First boil the water. Then")
    assert not cut(SENTENCE)
    assert not cut("A title without a stop", "A title without a stop")


@pytest.mark.parametrize(
    "ending",
    [".", "!", '."', ".)**", ". 🎉", ". ❤️", ".</p>", ".</td></tr>\n", ".\n```", ".\u200b", "。", "।", "؟", "…"],
)
def test_an_answer_ends_a_sentence_whatever_closes_after_the_stop(ending: str) -> None:
    assert cut("Boil the water first. Then add the", f"Boil the water and wait{ending}")


@pytest.mark.parametrize("correction", ["", SENTENCE, "Anything."])
def test_a_model_that_ran_out_of_room_has_cut_its_correction(correction: str) -> None:
    assert guards.is_cut(SENTENCE, correction, "length")
    assert guards.check(question="", answer=SENTENCE, correction=correction, finish_reason="length") == "cut"


def test_code_that_ends_in_a_fence_left_open_is_cut_where_it_breaks_off() -> None:
    broken = "Use this:\n\n```python\ndef area(radius):\n    return radius"
    assert cut(broken, FENCED)
    assert not cut(broken + "\n```", FENCED)


@pytest.mark.parametrize("blank", ["", " \n\t", "\u200b", "\ufeff\u00ad", "\u3164\u2800", "\x00"])
def test_nothing_visible_is_emptied_unless_the_answer_was_blank_too(blank: str) -> None:
    assert guards.is_emptied(SENTENCE, blank)
    assert not guards.is_emptied("\n", blank)
    assert guards.check(question="q", answer=SENTENCE, correction=blank, finish_reason="stop") == "emptied"
    assert guards.check(question="q", answer="\n", correction=blank, finish_reason="stop") is None


@pytest.mark.parametrize("text", [".", "😀", "\ud800", "a"])
def test_what_can_be_seen_is_not_emptied(text: str) -> None:
    assert not guards.is_emptied(SENTENCE, text)


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("rice，water", {"Han"}),
        ("rice。", {"Han"}),
        ("《rice》", {"Han"}),
        ("rice （raw）", {"Han"}),
        ("２ cups", {"Han"}),
        ("Ｒice", {"Han"}),
        ("rice 和 water", {"Han"}),
        ("rice ご飯", {"Han", "Hiragana"}),
        ("ライス", {"Katakana"}),
        ("쌀", {"Hangul"}),
        ("rice، water", {"Arabic"}),
        ("rice و water", {"Arabic"}),
        ("rice۔", {"Arabic"}),
        ("rice।", {"Devanagari"}),
        ("২ cups", {"Bengali"}),
        ("२ cups", {"Devanagari"}),
        ("rice и water", {"Cyrillic"}),
        ("wаter", {"Cyrillic"}),  # the second letter is not Latin
        ("rice και water", {"Greek"}),
        ("ή", {"Greek"}),
        ("rice และ water", {"Thai"}),
        ("אורז", {"Hebrew"}),
        ("\U00010330", {"Other"}),  # Gothic
        ("и，", {"Cyrillic", "Han"}),
    ],
)
def test_a_script_that_the_reference_lacks_leaks(text: str, scripts: set[str]) -> None:
    assert guards.leaked_scripts("Cook rice in water.", text) == scripts
    assert guards.leaks_script("How?", "Cook rice in water.", f"Cook {text}.")


@pytest.mark.parametrize(
    "text",
    [
        "crème brûlée, Łódź, và, ủ, ə, þ",
        "a–b — “c” ‘d’ «e» … ¿f? · ‐ § • †",
        "5 µm, 3 μm, 20 °C, 4 Ω, ∑ ∂ ≤ × √2 ½ ² ℵ ℓ",
        "α, β and σ² of Δx, with αβ = γ",
        "€5 ₹5 ฿5 ৳5",
        "😀 ❤️ 👍🏽 🈚 ㊗️ ✨ 1️⃣",
        "\u3000\u00a0\u202f\u200b\u200d\u3164",
        "e\u0301 a\u0308",
        "⠋⠙⠹ █ ► ─",
        "\ud800\udfff",
    ],
)
def test_latin_mathematics_signs_and_pictures_never_leak(text: str) -> None:
    assert guards.leaked_scripts("Cook rice in water.", text) == frozenset()


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("米", "水，煮饭。"),
        ("ご", "ご飯ライス"),
        ("ライス", "ご飯"),
        ("쌀", "밥。"),
        ("रोटी", "दाल।"),
        ("ভাত", "ডাল।"),
        ("кот", "пёс"),
        ("καὶ λόγος", "αρχή"),
        ("rice，", "rice。（raw）"),
    ],
)
def test_a_script_that_the_reference_uses_does_not_leak(reference: str, text: str) -> None:
    assert guards.leaked_scripts(reference, text) == frozenset()


@pytest.mark.parametrize(
    ("reference", "text", "scripts"),
    [
        ("rice，", "米，", {"Han"}),  # a stray mark does not let letters in
        ("米饭", "ご飯", {"Hiragana"}),
        ("쌀", "米", {"Han"}),
        ("the angle α", "λόγος", {"Greek"}),
    ],
)
def test_a_neighbour_of_a_used_script_still_leaks(reference: str, text: str, scripts: set[str]) -> None:
    assert guards.leaked_scripts(reference, text) == scripts


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Translate to Chinese: rice", "米饭。"),
        ("Say rice in JAPANESE", "ご飯とライス"),
        ("What is rice in Russian?", "рис"),
        ("Arabic word for rice", "أرز،"),
        ("rice (Hindi)", "चावल।"),
        ("Korean rice?", "쌀"),
        ("Write it in Cyrillic", "рис"),
        ("the Greek word", "ρύζι"),
        ("Comment dit-on riz en japonais ?", "ご飯"),
        ("翻译成俄语", "рис"),
        ("Say rice in ten languages", "рис, 米, أرز, ρύζι"),
    ],
)
def test_a_language_named_in_the_question_may_be_used(question: str, text: str) -> None:
    assert not guards.leaks_script(question, "Rice.", text)
    assert guards.leaks_script("Rice?", "Rice.", text)
    assert guards.leaked_scripts(f"{question} Rice.", text) == frozenset()


def test_only_the_question_can_name_a_language_for_the_check() -> None:
    answer = "It is a Chinese dish."
    assert guards.leaks_script("What is it?", answer, "It is a dish，from China.")
    assert guards.named_scripts(answer) == {"Han", "Bopomofo"}
    assert guards.leaked_scripts(answer, "，", named=frozenset()) == {"Han"}
    assert guards.leaked_scripts("", "，", named=frozenset({"Han"})) == frozenset()


def test_pieces_of_a_stream_leak_what_the_whole_leaks() -> None:
    reference, text = "How do I cook rice?", "Cook rice，then eat и enjoy।"
    pieces = [guards.leaked_scripts(reference, piece) for piece in text]
    assert frozenset().union(*pieces) == guards.leaked_scripts(reference, text) == {"Han", "Cyrillic", "Devanagari"}
    assert [scripts for scripts in pieces if scripts] == [{"Han"}, {"Cyrillic"}, {"Devanagari"}]


@pytest.mark.parametrize(
    "correction",
    [
        f"Use this:\n\n{CODE}\n\nIt prints the area.",
        f"Use this:\n\npython\n{CODE.replace('    ', ' ')}\n\nIt prints the area.",
        f"{CODE}\n\n```\nother()\n```",
    ],
)
def test_code_outside_its_fence_is_lost(correction: str) -> None:
    assert guards.loses_code_fence(FENCED, correction)
    assert guards.check(question="", answer=FENCED, correction=correction, finish_reason="stop") == "lost_code_fence"


@pytest.mark.parametrize(
    "correction",
    [
        "I cannot help with that.",
        FENCED.replace("```", "~~~~"),
        FENCED.replace("radius", "r"),
        f"Better:\n\n```\n{CODE}\n```\n\nIn short:\n\nprint(area(2))",
        "Call `print(area(2))` to see the area.",
        f"- Use this:\n\n  ```python\n{CODE}\n  ```\n\nIt prints the area.",
        "Use a loop that multiplies.",
    ],
)
def test_code_that_is_fenced_or_gone_is_not_lost(correction: str) -> None:
    assert not guards.loses_code_fence(FENCED, correction)


def test_fences_of_tildes_count() -> None:
    assert guards.loses_code_fence(f"Use:\n~~~\n{CODE}\n~~~\n", f"Use:\n{CODE}\n")


@pytest.mark.parametrize(
    "fences",
    [
        f"````markdown\n```python\n{CODE}\n```\n````\nDone.",
        f"```text\n```python opens a fence\n{CODE}\n```\nDone.",
        f"~~~\n```\n{CODE}\n~~~\nDone.",
    ],
)
def test_what_looks_like_a_fence_inside_a_fence_is_none(fences: str) -> None:
    assert not guards.loses_code_fence(FENCED, fences)


def test_most_lines_of_a_block_must_stand_outside_and_brackets_are_no_lines() -> None:
    answer = "```\n{\nopen();\nshut();\nwait();\n}\n----\n====\n____\n++++\n```"
    assert not guards.loses_code_fence(answer, "{\nopen();\n}\n----\n====\n____\n++++\n")
    assert not guards.loses_code_fence("```\nif\nfi\nwait();\nopen();\nshut();\n```", "if\nfi\nwait();\n")
    assert guards.loses_code_fence(answer, "open();\nshut();\n")


def test_code_that_stands_both_inside_and_outside_is_not_lost() -> None:
    assert not guards.loses_code_fence(FENCED, f"{CODE}\n\nThat is:\n\n```\n{CODE}\n```")


def test_an_answer_whose_fence_was_open_already_asks_no_more_of_the_correction() -> None:
    answer = f"Use:\n```\n{CODE}\n"
    assert not guards.loses_code_fence(answer, answer.replace("Use", "Take"))


TWO = f"Use this:\n```python\n{CODE}\n```\nOr that one.\n```python\n{CODE}\n```\nThat is all."


@pytest.mark.parametrize(
    "correction",
    [
        TWO.replace("```\nOr", "Or"),
        TWO.replace("```\nOr that one.\n```python\n", "Or that one.\n"),
        TWO.replace("```\nThat", "That"),
        TWO.replace("```\nOr", "```python\nOr").replace("one.\n```python", "one.\n```"),
    ],
)
def test_a_fence_that_only_a_later_one_closes_is_open(correction: str) -> None:
    assert guards.leaves_fence_open(TWO, correction)
    assert not guards.leaves_fence_open(correction, correction)


@pytest.mark.parametrize(
    "correction",
    [
        TWO.replace("Or that one.\n", "Or:\n"),
        TWO.replace("```\nOr that one.\n```python\n", ""),
        TWO.replace("```\nOr that one.\n```python\n", "# Or that one.\n"),
        "Send this:\n```\nOr that one.\n```",
    ],
)
def test_fences_that_are_all_closed_are_not_open(correction: str) -> None:
    assert not guards.leaves_fence_open(TWO, correction)


def test_code_may_be_moved_into_a_fence() -> None:
    answer = f"Use this:\n```python\n{CODE}\n```\nwait()\n"
    assert not guards.leaves_fence_open(answer, answer.replace("```\nwait()", "wait()\n```"))


def test_the_first_guard_in_order_gives_the_reason() -> None:
    leaking_cut = "Boil the water，first. Then add the"
    assert guards.check(question="", answer=SENTENCE, correction=leaking_cut, finish_reason="stop") == "cut"
    leaking_lost = f"Use this，\n\n{CODE}\n\nIt prints the area."
    assert guards.check(question="", answer=FENCED, correction=leaking_lost, finish_reason="stop") == "script_leak"
    assert guards.check(question="", answer=SENTENCE, correction="Boil it.", finish_reason="stop") is None


@settings(deadline=None, max_examples=300)
@given(text=ANY_TEXT, question=ANY_TEXT)
@example(text="```\nαβγ = ή，\n", question="")
@example(text="a (", question="\ud800")
def test_a_copy_passes_every_guard(text: str, question: str) -> None:
    assert guards.check(question=question, answer=text, correction=text, finish_reason="stop") is None


@settings(deadline=None, max_examples=300)
@given(question=ANY_TEXT, answer=ANY_TEXT, correction=ANY_TEXT)
@example(question="", answer="So.", correction="%")
@example(question="", answer="So.", correction="\u093e\u093f ि")
def test_no_text_makes_a_guard_fail(question: str, answer: str, correction: str) -> None:
    reason = guards.check(question=question, answer=answer, correction=correction, finish_reason="stop")
    assert reason in {None, *get_args(GuardName)}
    assert (reason == "emptied") <= guards.is_emptied(answer, correction)


@settings(deadline=None, max_examples=200)
@given(reference=ANY_TEXT, left=ANY_TEXT, right=ANY_TEXT)
def test_more_text_leaks_no_less_and_more_reference_no_more(reference: str, left: str, right: str) -> None:
    one, both = guards.leaked_scripts(reference, left), guards.leaked_scripts(reference, left + right)
    assert one <= both
    assert guards.leaked_scripts(f"{reference}\n{right}", left) <= one


def test_a_watch_reads_question_and_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    scripts_in = scripts._scripts_in
    monkeypatch.setattr(scripts, "_scripts_in", lambda text: read.append(len(text)) or scripts_in(text))
    watch = ScriptWatch(as_chat("Как? " * 1000), "Вот так. " * 1000, guards.GuardPolicy())
    assert not any(watch.leaks(piece) for piece in ["так", " же", "é", "—"] * 100)
    assert watch.leaks("ライス")
    assert sum(length > 100 for length in read) == 1
    assert not ScriptWatch(as_chat("How?"), "So.", guards.GuardPolicy(script_leak="report")).leaks("ライス")


LONG = 200_000


@pytest.mark.parametrize(
    "text",
    [
        "word " * (LONG // 5),
        "x" * LONG,
        " " * LONG + "x",
        "`" * LONG,
        "~" * LONG + "`",
        "```\n" * (LONG // 4),
        "- " * (LONG // 2),
        "-" + " " * LONG + "x",
        ">" * LONG,
        "9" * LONG,
        "\u200b" * LONG,
        "." + '"' * LONG + "x",
        ". " * (LONG // 2),
        "\\" * LONG,
        "a\n" * (LONG // 2),
        "米" * LONG,
        "".join(map(chr, range(0x4E00, 0x9FFF))) * (LONG // 20_000),
        "αb" * (LONG // 2),
    ],
    ids=lambda text: ascii(text[:4]),
)
def test_long_texts_are_judged_whole(text: str) -> None:
    answer = f"{text} and so it ends."
    assert guards.check(question=text, answer=answer, correction=answer, finish_reason="stop") is None
    leaking = f"{text} и so it ends."
    assert "Cyrillic" in guards.leaked_scripts(answer, leaking)
    assert guards.is_cut(answer, f"{text}\n\nIt is not finished. So it,", "stop")
    fenced = f"Use:\n\n```python\n{CODE}\n```\n"
    assert guards.loses_code_fence(f"{fenced}\n{'word ' * (LONG // 5)}", f"{CODE}\n{'word ' * (LONG // 5)}")
