"""The slab cache: windows, growth, closing gaps."""

from __future__ import annotations

import pytest
import torch

from aligner.correct.cache import SlabCache, Window


def write(cache: SlabCache, first: int, starts: tuple[int, ...], states: torch.Tensor) -> torch.Tensor:
    window = Window(first=first, starts=starts, width=states.shape[2])
    cache.aim(window, window.positions(states.device))
    return cache.update(states, -states, 0)[0]


def test_rows_of_different_lengths_are_written_in_their_own_places() -> None:
    cache = SlabCache(1)
    write(cache, 0, (0, 0), torch.ones(2, 1, 3, 4))
    keys = write(cache, 0, (3, 1), torch.full((2, 1, 1, 4), 7.0))
    assert keys.shape == (2, 1, 4, 4)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 7]
    assert keys[1, 0, :, 0].tolist() == [1, 7, 1, 0]


def test_growth_keeps_what_was_written() -> None:
    cache = SlabCache(1)
    write(cache, 0, (0,), torch.full((1, 2, 5, 3), 2.0))
    capacity = cache.capacity
    keys = write(cache, 1, (0,) * 9, torch.full((9, 2, 200, 3), 3.0))
    assert cache.capacity > capacity
    assert keys.eq(3).all()
    back = write(cache, 0, (5,), torch.zeros(1, 2, 1, 3))
    assert back[0, :, :5].eq(2).all()


def test_many_short_rows_then_a_long_one_are_not_many_long_ones() -> None:
    cache = SlabCache(1)
    write(cache, 0, (0,) * 32, torch.full((32, 1, 30, 1), 2.0))
    assert cache.keep([5], [30]) == [5]
    keys = write(cache, 0, (30,), torch.full((1, 1, 400, 1), 3.0))
    assert cache.capacity[0] == 1
    assert keys[0, 0, :, 0].tolist() == [2.0] * 30 + [3.0] * 400
    cache.keep([0], [100])
    write(cache, 1, (0,) * 31, torch.ones(31, 1, 100, 1))
    assert cache.capacity[0] * cache.capacity[1] < 2 * 32 * 200


def test_a_limit_holds_while_rows_grow_together() -> None:
    cache = SlabCache(1, limit=1024)
    write(cache, 0, (0,) * 32, torch.full((32, 1, 20, 1), 2.0))
    for start in range(20, 32):
        keys = write(cache, 0, (start,) * 32, torch.full((32, 1, 1, 1), 3.0))
        assert cache.capacity == (32, 32)
    assert keys[31, 0, :, 0].tolist() == [2.0] * 20 + [3.0] * 12
    cache.keep([], [])
    write(cache, 0, (0,), torch.ones(1, 1, 1030, 1))  # let in alone, and longer than the limit
    capacity = cache.capacity
    assert 1030 <= capacity[0] * capacity[1] < 2048
    write(cache, 0, (1030,), torch.ones(1, 1, 1, 1))
    assert cache.capacity == capacity  # it does not grow token by token


def test_what_a_failed_pass_asked_for_is_not_asked_for_again() -> None:
    cache = SlabCache(1)
    write(cache, 0, (0,), torch.ones(1, 1, 64, 1))
    capacity = cache.capacity
    window = Window(first=1, starts=(0,) * 40, width=500)
    cache.aim(window, window.positions(torch.device("cpu")))
    cache.undo()
    assert cache.capacity == capacity
    write(cache, 1, (0,), torch.ones(1, 1, 64, 1))
    assert cache.capacity == (2, 64)  # and no more than is needed


def test_what_a_failed_pass_grew_is_given_back() -> None:
    cache = SlabCache(3)
    window = Window(first=0, starts=(0,), width=50)
    cache.aim(window, window.positions(torch.device("cpu")))
    for layer in range(3):
        cache.update(torch.full((1, 1, 50, 1), 2.0), torch.full((1, 1, 50, 1), 5.0), layer)
    window = Window(first=1, starts=(0,) * 40, width=500)
    cache.aim(window, window.positions(torch.device("cpu")))
    cache.update(torch.ones(40, 1, 500, 1), torch.ones(40, 1, 500, 1), 0)  # and no memory for the next layer
    cache.undo()
    window = Window(first=0, starts=(50,), width=1)
    cache.aim(window, window.positions(torch.device("cpu")))
    assert [tuple(slab.shape) for layer in cache.layers for slab in (layer.keys, layer.values)] == [(1, 1, 64, 1)] * 6
    for layer in range(3):
        keys, values = cache.update(torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 7.0), layer)
        assert keys[0, 0, :, 0].tolist() == [2.0] * 50 + [3.0]
        assert values[0, 0, :, 0].tolist() == [5.0] * 50 + [7.0]


def test_keep_moves_rows_from_the_end_into_the_gaps() -> None:
    cache = SlabCache(1)
    for slot in range(5):
        write(cache, slot, (0,), torch.full((1, 1, 2, 1), float(slot)))
    order = cache.keep([1, 3, 4], [2, 2, 2])
    assert sorted(order) == [1, 3, 4]
    keys = write(cache, 0, (2, 2, 2), torch.zeros(3, 1, 1, 1))
    assert keys[:, 0, 0, 0].tolist() == [float(slot) for slot in order]


def test_keep_nothing_and_keep_all() -> None:
    cache = SlabCache(1)
    write(cache, 0, (0, 0), torch.ones(2, 1, 2, 1))
    assert cache.keep([0, 1], [2, 2]) == [0, 1]
    assert cache.keep([], []) == []


def test_window_mask_is_causal_per_row_and_slides() -> None:
    window = Window(first=0, starts=(2, 4), width=2)
    positions = window.positions(torch.device("cpu"))
    mask = window.mask(positions, None)
    assert mask.shape == (2, 1, 2, 6)
    assert mask[0, 0].long().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert mask[1, 0].long().tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    sliding = window.mask(positions, 2)
    assert sliding[1, 0].long().tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize(("starts", "even"), [((3,), True), ((3, 3), True), ((3, 4), False)])
def test_even_windows(starts: tuple[int, ...], even: bool) -> None:
    assert Window(first=0, starts=starts, width=1).even is even


def test_clear_gives_the_memory_back() -> None:
    cache = SlabCache(1)
    write(cache, 0, (0,), torch.ones(1, 1, 2, 1))
    cache.clear()
    assert cache.capacity == (0, 0)
    assert cache.layers[0].keys is None
    assert write(cache, 0, (0,), torch.ones(1, 1, 2, 1)).eq(1).all()
