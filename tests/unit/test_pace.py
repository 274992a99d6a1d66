"""How far to draft: costs fitted to passes, rates to drafts, and what pays by them."""

from __future__ import annotations

import itertools

import pytest

from aligner.correct.drafting import Draft, Source
from aligner.correct.pace import Pace


def paced(fixed: float, each: float = 1e-3) -> Pace:
    pace = Pace()
    for tokens in (1, 8, 64, 200, 3, 16, 100, 400):
        pace.took(tokens, fixed + each * tokens)
    return pace


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
    assert pace.width([drafted("answer", 40)]) == 40
    assert pace.first(500, 8) == 500


def test_where_a_pass_costs_nothing_by_itself_nothing_is_drafted() -> None:
    pace = paced(0.0)
    assert pace.width([drafted("answer", 40), drafted("found", 10)]) == 0
    assert pace.first(200, 4) == 0


def test_width_brings_the_most_tokens_in_a_time() -> None:
    """Against all widths tried one by one."""
    pace = paced(0.05)
    sizes: list[tuple[Source, int]] = [("answer", 30), ("guess", 12), ("found", 5), ("answer", 0)]
    drafts = [drafted(source, n) for source, n in sizes]
    rate = {source: pace._rates[source].each for source, _ in sizes}

    def speed(width: int) -> float:
        brought = sum(1 + sum(rate[s] ** k for k in range(1, min(n, width) + 1)) for s, n in sizes)
        return brought / (50 + 4 * (1 + width))

    assert pace.width(drafts) == max(range(31), key=speed)
    assert pace.width([]) == 0


def test_drafts_that_are_wrong_switch_themselves_off() -> None:
    pace = paced(0.02)
    assert pace.width([drafted("phrase", 16)]) > 0
    for _ in range(100):
        pace.seen("phrase", 8, 0)
    assert pace.width([drafted("phrase", 16)]) == 0
    assert pace.width([drafted("answer", 16)]) > 0, "other sources are counted apart"
    for _ in range(100):
        pace.seen("phrase", 8, 8)
    assert pace.width([drafted("phrase", 16)]) > 0


def test_first_drafts_are_whole_where_enough_answers_are_copied() -> None:
    copies, edits = paced(0.1), paced(0.1)
    for i in itertools.islice(itertools.count(), 200):
        copies.seen("first", 100, 100 if i % 2 else 20)
        edits.seen("first", 100, 5)
    assert copies.first(1000, 4) == 1000
    assert 0 < edits.first(1000, 4) < 100
    assert edits.first(1000, 64) < edits.first(1000, 4), "the more rows share a step, the less a token saved is worth"


def test_the_best_draft_has_the_most_tokens_that_are_likely_right() -> None:
    pace = Pace()
    long, short, sure = drafted("guess", 40), drafted("found", 1), drafted("found", 20)
    assert pace.best([long, short]) == short
    assert pace.best([long, short, sure]) == sure
    assert pace.best([]).tokens == ()
