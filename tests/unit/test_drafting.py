"""Drafts: read from the answer, whose place is found again after every kind of edit, from the prompt, from phrases."""

from __future__ import annotations

import pytest

from aligner.correct.drafting import NO_DRAFT, Draft, Drafter, Phrases

ANSWER = tuple(range(1, 31))


def follow(*written: int, answer: tuple[int, ...] = ANSWER, prompt: tuple[int, ...] = (), phrases=None) -> Drafter:
    drafter = Drafter(answer, prompt, phrases or Phrases())
    for token in written:
        drafter.push(token)
    return drafter


def first(drafter: Drafter, most: int) -> Draft:
    return next(iter(drafter.drafts(most)), NO_DRAFT)


def test_the_whole_answer_is_the_first_draft() -> None:
    assert first(follow(), 100) == Draft(ANSWER, "first")
    assert first(follow(), 4) == Draft((1, 2, 3, 4), "first")
    assert first(follow(), 0) == NO_DRAFT


def test_what_follows_is_drafted_while_the_answer_is_followed() -> None:
    assert first(follow(1, 2, 3), 3) == Draft((4, 5, 6), "answer")
    assert first(follow(*ANSWER), 3) == NO_DRAFT


@pytest.mark.parametrize(
    ("written", "draft"),
    [
        pytest.param((1, 2, 3, 99), Draft((5, 6), "guess"), id="one token replaced, so far"),
        pytest.param((1, 2, 3, 98, 99), Draft((6, 7), "guess"), id="two tokens replaced, so far"),
        pytest.param((1, 2, 3, 99, 5), Draft((6, 7), "near"), id="replaced"),
        pytest.param((1, 2, 3, 99, 5, 6, 7), Draft((8, 9), "answer"), id="replaced, and followed again"),
        pytest.param((1, 2, 3, 8), Draft((9, 10), "near"), id="left out"),
        pytest.param((1, 2, 3, 70, 71, 4), Draft((5, 6), "near"), id="put in"),
        pytest.param((11, 12), Draft((13, 14), "near"), id="the beginning left out"),
        pytest.param((*range(11, 31), 1, 2), Draft((3, 4), "found"), id="moved to the end"),
        pytest.param((*range(11, 31), 1), NO_DRAFT, id="one token far away is no place"),
    ],
)
def test_the_place_is_found_again(written: tuple[int, ...], draft: Draft) -> None:
    assert first(follow(*written), 2) == draft


def test_the_nearest_place_ahead_is_taken_and_the_longest_match() -> None:
    answer = (5, 6, 7, 1, 2, 9, 9, 5, 6, 8, 1, 2, 3)
    assert first(follow(5, 6, 7, 0, 1, 2, answer=answer), 2).tokens == (9, 9)
    assert first(follow(5, 6, 7, 0, 8, 1, 2, answer=answer), 2).tokens == (3,)


def test_what_was_replaced_once_is_replaced_again() -> None:
    answer = (1, 9, 2, 3, 4, 9, 5, 9, 6)
    drafter = follow(1, 70, 71, 2, 3, 4, answer=answer)
    assert first(drafter, 9) == Draft((70, 71, 5, 70, 71, 6), "answer")
    assert first(drafter, 2).tokens == (70, 71)
    for token in (9, 5):
        drafter.push(token)
    assert first(drafter, 9).tokens == (9, 6), "what was kept later is no longer replaced"
    drafter = follow(1, 2, 3, 4, answer=answer)
    assert first(drafter, 9).tokens == (9, 5, 9, 6), "what was left out is not"


def test_places_of_edits_are_remembered() -> None:
    assert follow(1, 2, 99, 98, 5, 6).edited == [2, 3, 4]


def test_what_was_read_or_written_before_is_drafted_where_the_answer_gives_nothing() -> None:
    prompt = (40, 41, 42, 43, 41, 42, 44, 45)
    assert first(follow(41, 42, answer=(1,), prompt=prompt), 2) == Draft((44, 45), "before"), "the last time"
    assert first(follow(40, 41, 42, answer=(1,), prompt=prompt), 1) == Draft((43,), "before"), "three tokens before two"
    assert first(follow(40, answer=(1,), prompt=prompt), 3) == Draft((41, 42, 43), "token")
    assert first(follow(60, 61, 62, 60, 61, answer=(1,)), 1) == Draft((62,), "before"), "its own words"
    later = follow(41, answer=(1,), prompt=prompt)
    later.drafts(1)
    for token in (42, 44):
        later.push(token)
    assert first(later, 1) == Draft((45,), "before"), "followed after it was first asked"


def test_where_one_token_found_the_place_other_ways_are_told_too() -> None:
    drafter = follow(1, 2, 3, 99, 5, prompt=(70, 5, 71, 72))
    assert drafter.drafts(2) == [Draft((6, 7), "near"), Draft((71, 72), "token")]


def test_phrases_of_earlier_corrections_come_before_the_prompt() -> None:
    phrases = Phrases()
    earlier = follow(1, 50, 51, 52, 53, 54, phrases=phrases)
    earlier.finish()
    assert first(follow(1, 50, 51, phrases=phrases, prompt=(50, 51, 60)), 9) == Draft((52, 53, 54), "phrase")


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
