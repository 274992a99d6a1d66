"""Drafts: read from the answer, whose place is found again after every kind of edit, from the prompt, from phrases."""

from __future__ import annotations

import pytest

from aligner.correct.drafting import Draft, Drafter, Phrases

ANSWER = tuple(range(1, 31))


def follow(*written: int, answer: tuple[int, ...] = ANSWER, prompt: tuple[int, ...] = (), phrases=None) -> Drafter:
    drafter = Drafter(answer, prompt, phrases or Phrases())
    for token in written:
        drafter.push(token)
    return drafter


def test_the_whole_answer_is_the_first_draft() -> None:
    assert follow().draft(100) == Draft(ANSWER, "first")
    assert follow().draft(4) == Draft((1, 2, 3, 4), "first")
    assert follow().draft(0) == Draft()


def test_what_follows_is_drafted_while_the_answer_is_followed() -> None:
    assert follow(1, 2, 3).draft(3) == Draft((4, 5, 6), "answer")
    assert follow(*ANSWER).draft(3) == Draft()


@pytest.mark.parametrize(
    ("written", "draft"),
    [
        pytest.param((1, 2, 3, 99), Draft((5, 6), "guess"), id="one token replaced, so far"),
        pytest.param((1, 2, 3, 98, 99), Draft((6, 7), "guess"), id="two tokens replaced, so far"),
        pytest.param((1, 2, 3, 99, 5), Draft((6, 7), "found"), id="replaced"),
        pytest.param((1, 2, 3, 99, 5, 6), Draft((7, 8), "answer"), id="replaced, and followed again"),
        pytest.param((1, 2, 3, 8), Draft((9, 10), "found"), id="left out"),
        pytest.param((1, 2, 3, 70, 71, 4), Draft((5, 6), "found"), id="put in"),
        pytest.param((11, 12), Draft((13, 14), "answer"), id="the beginning left out"),
        pytest.param((*range(11, 31), 1, 2), Draft((3, 4), "found"), id="moved to the end"),
        pytest.param((*range(11, 31), 1), Draft(), id="one token far away is no place"),
    ],
)
def test_the_place_is_found_again(written: tuple[int, ...], draft: Draft) -> None:
    assert follow(*written).draft(2) == draft


def test_the_nearest_place_ahead_is_taken_and_the_longest_match() -> None:
    answer = (5, 6, 7, 1, 2, 9, 9, 5, 6, 8, 1, 2, 3)
    assert follow(5, 6, 7, 0, 1, 2, answer=answer).draft(2).tokens == (9, 9)
    assert follow(5, 6, 7, 0, 8, 1, 2, answer=answer).draft(2).tokens == (3,)


def test_places_of_edits_are_remembered() -> None:
    assert follow(1, 2, 99, 98, 5, 6).edited == [2, 3, 4]


def test_what_the_prompt_says_is_drafted_where_the_answer_gives_nothing() -> None:
    prompt = (40, 41, 42, 43, 41, 42, 44, 45)
    assert follow(41, 42, answer=(1,), prompt=prompt).draft(9) == Draft((44, 45), "prompt")
    assert follow(40, 41, 42, answer=(1,), prompt=prompt).draft(1) == Draft((43,), "prompt"), "three tokens before two"
    assert follow(40, answer=(1,), prompt=prompt).draft(9) == Draft(), "one token is too little"


def test_phrases_of_earlier_corrections_come_before_the_prompt() -> None:
    phrases = Phrases()
    earlier = follow(1, 50, 51, 52, 53, 54, phrases=phrases)
    earlier.finish()
    assert follow(1, 50, 51, phrases=phrases, prompt=(50, 51, 60)).draft(9) == Draft((52, 53, 54), "phrase")


def test_what_was_copied_is_no_phrase() -> None:
    phrases = Phrases()
    follow(*ANSWER, phrases=phrases).finish()
    assert phrases.after((1, 2, 3)) == ()


def test_the_oldest_phrases_make_room() -> None:
    phrases = Phrases(size=2)
    for token in (10, 20, 30):
        phrases.learn((token, token, token, token + 1), [3])
    assert phrases.after((10, 10, 10)) == ()
    assert phrases.after((7, 30, 30, 30)) == (31,)
