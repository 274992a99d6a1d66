"""The paper's equations: by hand, against torch's cross-entropy, and the bound on worlds small enough to enumerate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aligner.objectives import (
    completion_log_probs,
    corrector_loss,
    sft_loss,
    stack_log_probs,
    stack_loss_bound,
    token_log_probs,
)

# Two tokens; the odds of token 1 against token 0 are 1:1, 3:1, 7:1 and 1:3 at the four places.
ODDS = [1.0, 3.0, 7.0, 1 / 3]
LOGITS = torch.tensor([[[0.0, math.log(o)] for o in ODDS]], dtype=torch.float64)
IDS = torch.tensor([[1, 0, 1, 1]])


def random_batch(seed: int, rows: int = 3, length: int = 7, vocabulary: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, vocabulary, generator=generator, dtype=torch.float64) * 3
    ids = torch.randint(vocabulary, (rows, length), generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.5
    mask[0, -1] = True
    return logits, ids, mask


class TestTokenLogProbs:
    def test_by_hand(self) -> None:
        # At place 0 token 0 follows, p = 1/2; at place 1 token 1 follows, p = 3/4; at place 2 token 1, p = 7/8.
        expected = torch.tensor([[math.log(1 / 2), math.log(3 / 4), math.log(7 / 8)]], dtype=torch.float64)
        torch.testing.assert_close(token_log_probs(LOGITS, IDS), expected)

    def test_equals_cross_entropy(self) -> None:
        logits, ids, _ = random_batch(0)
        expected = -torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        torch.testing.assert_close(token_log_probs(logits, ids), expected)

    def test_a_shift_of_the_logits_changes_nothing(self) -> None:
        logits, ids, _ = random_batch(1)
        torch.testing.assert_close(token_log_probs(logits + 1000, ids), token_log_probs(logits, ids))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_full(self, dtype: torch.dtype) -> None:
        logits, ids, _ = random_batch(2)
        found = token_log_probs(logits.to(dtype), ids)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, token_log_probs(logits.to(dtype).float(), ids))

    def test_double_stays_double(self) -> None:
        assert token_log_probs(LOGITS, IDS).dtype == torch.float64

    def test_one_token_has_none_before_it(self) -> None:
        assert token_log_probs(LOGITS[:, :1], IDS[:, :1]).shape == (1, 0)


class TestCompletionLogProbs:
    def test_by_hand(self) -> None:
        mask = torch.tensor([[False, False, True, True]])
        assert completion_log_probs(LOGITS, IDS, mask).item() == pytest.approx(math.log(3 / 4 * 7 / 8))

    def test_a_sum_over_each_row(self) -> None:
        logits, ids, mask = random_batch(3)
        each = [
            sum(logits[r, t - 1].log_softmax(-1)[ids[r, t]].item() for t in range(1, 7) if mask[r, t]) for r in range(3)
        ]
        torch.testing.assert_close(completion_log_probs(logits, ids, mask), torch.tensor(each, dtype=torch.float64))

    def test_the_first_token_counts_nowhere(self) -> None:
        logits, ids, mask = random_batch(4)
        with_first, without = mask.clone(), mask.clone()
        with_first[:, 0], without[:, 0] = True, False
        torch.testing.assert_close(
            completion_log_probs(logits, ids, with_first), completion_log_probs(logits, ids, without)
        )

    def test_a_prompt_token_that_cannot_be_does_not_spoil_the_row(self) -> None:
        logits = LOGITS.clone()
        logits[0, 0, 0] = -math.inf
        mask = torch.tensor([[False, False, True, True]])
        assert completion_log_probs(logits, IDS, mask).item() == pytest.approx(math.log(3 / 4 * 7 / 8))
        assert completion_log_probs(logits, IDS, torch.ones_like(mask)).item() == -math.inf

    def test_a_mask_of_numbers_is_a_mask(self) -> None:
        logits, ids, mask = random_batch(5)
        torch.testing.assert_close(
            completion_log_probs(logits, ids, mask.to(torch.int8)), completion_log_probs(logits, ids, mask)
        )


@pytest.mark.parametrize("loss", [sft_loss, corrector_loss])
class TestLosses:
    def test_by_hand(self, loss) -> None:
        mask = torch.tensor([[False, False, True, True]])
        assert loss(LOGITS, IDS, mask).item() == pytest.approx(-math.log(3 / 4 * 7 / 8) / 2)

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_cross_entropy(self, loss, seed: int) -> None:
        logits, ids, mask = random_batch(seed)
        labels = ids.masked_fill(~mask, -100)
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        torch.testing.assert_close(loss(logits, ids, mask), expected)

    def test_the_mean_is_over_tokens_not_rows(self, loss) -> None:
        logits, ids, _ = random_batch(6, rows=2, length=5)
        mask = torch.tensor([[False, False, False, False, True], [False, True, True, True, True]])
        rows = -completion_log_probs(logits, ids, mask)
        torch.testing.assert_close(loss(logits, ids, mask), rows.sum() / 5)
        assert abs(rows.sum() / 5 - (rows / torch.tensor([1, 4])).mean()) > 1e-3

    def test_padding_changes_nothing(self, loss) -> None:
        logits, ids, mask = random_batch(7)
        longer = (
            torch.cat([logits, torch.randn(3, 4, 11, dtype=torch.float64)], dim=1),
            torch.cat([ids, torch.zeros(3, 4, dtype=torch.long)], dim=1),
            torch.cat([mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1),
        )
        torch.testing.assert_close(loss(*longer), loss(logits, ids, mask))

    def test_the_gradient_reaches_the_places_before_completion_tokens_and_no_other(self, loss) -> None:
        logits, ids, mask = random_batch(8)
        logits.requires_grad_()
        loss(logits, ids, mask).backward()
        assert logits.grad is not None
        trained = torch.zeros_like(mask)
        trained[:, :-1] = mask[:, 1:]
        assert trained.any()
        assert not trained.all()
        assert (logits.grad[~trained] == 0).all()
        assert (logits.grad[trained].abs().sum(-1) > 0).all()
        # The gradient of cross-entropy: (softmax − one-hot) / N.
        one_hot = torch.nn.functional.one_hot(ids[:, 1:], 11)
        expected = (logits.detach()[:, :-1].softmax(-1) - one_hot)[mask[:, 1:]] / mask[:, 1:].sum()
        torch.testing.assert_close(logits.grad[trained], expected)

    def test_the_gradient_stays_a_number_beside_an_impossible_prompt_token(self, loss) -> None:
        logits = LOGITS.clone()
        logits[0, 0, 0] = -math.inf
        logits.requires_grad_()
        loss(logits, IDS, torch.tensor([[False, False, True, True]])).backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    @pytest.mark.parametrize("mask", [[[False] * 4], [[True, False, False, False]]], ids=["empty", "first only"])
    def test_nothing_to_take_a_mean_of(self, loss, mask: list[list[bool]]) -> None:
        with pytest.raises(ValueError, match="no token is marked for the loss"):
            loss(LOGITS, IDS, torch.tensor(mask))

    def test_a_mask_of_numbers_counts_each_token_once(self, loss) -> None:
        logits, ids, mask = random_batch(9)
        torch.testing.assert_close(loss(logits, ids, mask.long() * 3), loss(logits, ids, mask))


def distribution(seed: int, *shape: int, sharpness: float = 2.0) -> Tensor:
    """Log-probabilities that sum to one over the last dimension."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * sharpness).log_softmax(-1)


class TestComposition:
    def test_by_hand(self) -> None:
        """Two answers with 1/4 and 3/4; the first is corrected to c with 1/2, the second with 1/6: 1/8 + 1/8."""
        correction = torch.tensor([[1 / 2, 1 / 2], [1 / 6, 5 / 6]], dtype=torch.float64).log()
        answer = torch.tensor([1 / 4, 3 / 4], dtype=torch.float64).log()
        expected = torch.tensor([1 / 4, 3 / 4], dtype=torch.float64).log()
        torch.testing.assert_close(stack_log_probs(correction, answer), expected)

    @given(seed=st.integers(0, 10_000), answers=st.integers(1, 6), corrections=st.integers(1, 6))
    def test_the_stack_is_a_distribution_and_equals_the_sum(self, seed: int, answers: int, corrections: int) -> None:
        correction, answer = distribution(seed, answers, corrections), distribution(seed + 1, answers)
        stack = stack_log_probs(correction, answer)
        assert stack.exp().sum().item() == pytest.approx(1)
        torch.testing.assert_close(stack.exp(), answer.exp() @ correction.exp())

    def test_probabilities_too_small_for_a_plain_sum(self) -> None:
        correction, answer = distribution(0, 4, 5) - 2000, distribution(1, 4)
        torch.testing.assert_close(
            stack_log_probs(correction, answer), stack_log_probs(correction + 2000, answer) - 2000
        )

    def test_answers_that_are_never_given_play_no_part(self) -> None:
        correction = distribution(0, 3, 4)
        answer = torch.tensor([-math.inf, 0.0, -math.inf], dtype=torch.float64)
        torch.testing.assert_close(stack_log_probs(correction, answer), correction[1])


class TestBound:
    def test_by_hand(self) -> None:
        correction = torch.tensor([1 / 2, 1 / 8], dtype=torch.float64).log()
        answer = torch.tensor([1 / 4, 1.0], dtype=torch.float64).log()
        assert stack_loss_bound(correction, answer).item() == pytest.approx((math.log(16) + math.log(4)) / 2)

    @settings(max_examples=300)
    @given(
        seed=st.integers(0, 100_000),
        answers=st.integers(1, 6),
        corrections=st.integers(1, 6),
        sharpness=st.floats(0, 8),
        rows=st.integers(1, 40),
    )
    def test_is_never_below_the_stacks_loss(
        self, seed: int, answers: int, corrections: int, sharpness: float, rows: int
    ) -> None:
        """−E log π'(c) ≤ −E log μ(c|k) − E log π(k), whatever distribution the rows (k, c) come from."""
        correction = distribution(seed, answers, corrections, sharpness=sharpness)
        answer = distribution(seed + 1, answers, sharpness=sharpness)
        stack = stack_log_probs(correction, answer)

        # Every pair, weighed by the true distribution π(k) μ(c|k): both sides exactly.
        joint = (answer[:, None] + correction).exp()
        loss = -(joint.sum(0) * stack).sum()
        bound = -(joint * correction).sum() - (answer.exp() * answer).sum()
        assert loss <= bound + 1e-9

        # Rows from anywhere, as in a data set written by others: through the function.
        generator = torch.Generator().manual_seed(seed + 2)
        k = torch.randint(answers, (rows,), generator=generator)
        c = torch.randint(corrections, (rows,), generator=generator)
        assert -stack[c].mean() <= stack_loss_bound(correction[k, c], answer[k]) + 1e-9

        # The gap is what the other answers add: nothing where there is but one.
        if answers == 1:
            torch.testing.assert_close(-stack[c].mean(), stack_loss_bound(correction[k, c], answer[k]))
        elif sharpness < 1:
            assert -stack[c].mean() < stack_loss_bound(correction[k, c], answer[k])

    @given(seed=st.integers(0, 10_000), answers=st.integers(2, 6), only=st.integers(0, 5))
    def test_is_equal_where_the_upstream_gives_one_answer(self, seed: int, answers: int, only: int) -> None:
        only %= answers
        correction = distribution(seed, answers, 5)
        answer = torch.full((answers,), -math.inf, dtype=torch.float64)
        answer[only] = 0.0
        c = torch.arange(5)
        loss = -stack_log_probs(correction, answer)[c].mean()
        torch.testing.assert_close(loss, stack_loss_bound(correction[only, c], answer[only].expand(5)))

    def test_its_second_term_does_not_depend_on_the_corrector(self) -> None:
        answer = distribution(0, 6)
        first, second = distribution(1, 6, 4)[:, 0], distribution(2, 6, 4)[:, 0]
        first.requires_grad_()
        bound = stack_loss_bound(first, answer)
        bound.backward()
        torch.testing.assert_close(first.grad, torch.full((6,), -1 / 6, dtype=torch.float64))
        torch.testing.assert_close(bound - stack_loss_bound(second, answer), second.mean() - first.mean())
