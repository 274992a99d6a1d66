"""How far to draft: costs fitted to passes, rates to drafts, and what pays by them."""

from __future__ import annotations

import itertools

import pytest

from aligner.correct.drafting import Draft, Source
from aligner.correct.pace import Pace, Rates


def paced(fixed: float, each: float = 1e-3) -> Pace:
    pace = Pace()
    for tokens in (1, 8, 64, 200, 3, 16, 100, 400):
        pace.took(tokens, fixed + each * tokens)
    return pace


def width(pace: Pace, drafts: list[Draft], rates: Rates | None = None) -> int:
    rates = rates or pace.rates()
    return pace.width(drafts, [rates.each(draft.source) for draft in drafts])


def drafted(source: Source, length: int) -> Draft:
    return Draft(tuple(range(length)), source)


@pytest.mark.parametrize("fixed", [0.0, 0.01, 0.3])
def test_costs_are_fitted_to_the_passes(fixed: float) -> None:
    assert paced(fixed).fixed == pytest.approx(fixed / 1e-3, abs=1e-6)


def test_before_passes_differ_a_guess_stands_for_the_cost() -> None:
    pace = Pace()
    guess = pace.fixed
    assert guess > 1
    for _ in range(50):
        pace.took(4, 0.01)
    assert pace.fixed == guess


def test_where_more_tokens_cost_nothing_all_are_drafted() -> None:
    pace = paced(1.0, each=0.0)
    assert width(pace, [drafted("answer", 40)]) == 40
    assert pace.first(500, 8) == 500


def test_where_a_pass_costs_nothing_by_itself_nothing_is_drafted() -> None:
    pace = paced(0.0)
    assert width(pace, [drafted("answer", 40), drafted("found", 10)]) == 0
    assert pace.first(200, 4) == 0


def test_width_brings_the_most_tokens_in_a_time() -> None:
    """Against all widths tried one by one."""
    pace = paced(0.05)
    sizes: list[tuple[Source, int]] = [("answer", 30), ("guess", 12), ("found", 5), ("answer", 0)]
    drafts = [drafted(source, n) for source, n in sizes]
    rate = {source: pace.rates().each(source) for source, _ in sizes}

    def speed(width: int) -> float:
        brought = sum(1 + sum(rate[s] ** k for k in range(1, min(n, width) + 1)) for s, n in sizes)
        return brought / (50 + 4 * (1 + width))

    assert width(pace, drafts) == max(range(31), key=speed)
    assert width(pace, []) == 0


def test_drafts_that_are_wrong_switch_themselves_off() -> None:
    pace = paced(0.02)
    rates = pace.rates()
    assert width(pace, [drafted("phrase", 16)], rates) > 0
    for _ in range(1000):
        rates.seen("phrase", 8, 0)
    assert width(pace, [drafted("phrase", 16)], rates) == 0
    assert width(pace, [drafted("answer", 16)], rates) > 0, "other sources are counted apart"
    assert width(pace, [drafted("phrase", 16)]) > 0, "and other rows"
    for _ in range(1000):
        rates.seen("phrase", 8, 8)
    assert width(pace, [drafted("phrase", 16)], rates) > 0


def test_rows_that_left_say_what_the_next_may_expect_each_as_one() -> None:
    pace = Pace()
    before = pace.rates().each("near")
    rates = pace.rates()
    for _ in range(1000):
        rates.seen("near", 4, 0)
    pace.left(rates)
    after = pace.rates().each("near")
    assert 0.9 * before < after < before, "one long row of wrong drafts does not undo the others"
    for _ in range(200):
        pace.left(rates)
    assert pace.rates().each("near") < 0.05


def test_an_answer_followed_from_its_first_token_is_likely_followed_on() -> None:
    copied, rewritten = Pace().rates(), Pace().rates()
    copied.seen("first", 200, 190)
    rewritten.seen("first", 200, 1)
    assert copied.each("answer") > Pace().rates().each("answer") > rewritten.each("answer")


def test_first_drafts_are_whole_where_enough_answers_are_copied() -> None:
    copies, edits = paced(0.1), paced(0.1)
    for i in itertools.islice(itertools.count(), 200):
        copies.read(100, 100 if i % 2 else 20)
        copies.ended(bool(i % 2))
        edits.read(100, 5)
        edits.ended(False)
    assert copies.first(1000, 4) == 1000
    assert 0 < edits.first(1000, 4) < 100
    assert edits.first(1000, 64) < edits.first(1000, 4), "the more rows share a step, the less a token saved is worth"


def test_a_shortened_draft_that_is_right_tells_nothing_of_the_answers_end() -> None:
    pace = paced(0.1)
    for _ in range(200):
        pace.read(100, 5)
        pace.ended(False)
    short = pace.first(1000, 4)
    for _ in range(10):
        pace.read(11, 11)
    assert short <= pace.first(1000, 4) < 100
    for _ in range(100):
        pace.ended(True)
    assert pace.first(1000, 4) == 1000


def test_the_best_draft_has_the_most_tokens_that_are_likely_right() -> None:
    pace = Pace().rates()
    long, short, sure = drafted("guess", 40), drafted("found", 1), drafted("found", 20)
    assert pace.best([long, short]) == short
    assert pace.best([long, short, sure]) == sure
    assert pace.best([]).tokens == ()
