"""Which row comes when is a function of one number, without a table of rows."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from orthus_core.data.document import Document, Place, turn
from orthus_core.data.order import (
    BLOCK,
    MixtureOrder,
    Permutation,
    hash_of,
    is_held_out,
    quotas_of,
    splitmix64,
)
from orthus_core.data.row_faults import RowFaults
from orthus_core.data.sources import MadeRows, Mixture, ShuffledRows
from orthus_core.errors import DataError

KEYS = splitmix64(np.arange(100_000, dtype=np.uint64))


class FakeRows:
    """A data set of N rows, in which some are broken."""

    where = "fake"
    identity = "fake"
    passed_over = ()

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.count = count
        self.broken = broken
        self.read: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.count

    def keys(self) -> np.ndarray:
        return splitmix64(np.arange(self.count, dtype=np.uint64))

    def place(self, number: int) -> Place:
        return Place("fake", number + 1)  # type: ignore[arg-type]

    def document(self, number: int, visit: int = 0) -> Document:
        self.read.append((number, visit))
        if number in self.broken:
            raise DataError("this one is broken", where="fake")
        return Document(turn("user", "q") + turn("model", "a"), id=str(number))


def shuffled(rows: FakeRows, name: str = "fake", seed: int = 0) -> ShuffledRows:
    return ShuffledRows(name, rows, np.arange(rows.count), seed)  # type: ignore[arg-type]


def ids(mixture: Mixture, numbers) -> list[int]:
    return [int(mixture(number).id) for number in numbers]


def test_hashes_are_those_of_splitmix64():
    # The first outputs of the published generator, whose state begins at 0.
    gamma = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        states = np.array([0, gamma, gamma + gamma], dtype=np.uint64)
    wanted = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(states).tolist() == wanted
    assert hash_of(0) == wanted[0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097])
def test_an_order_has_each_number_once(count):
    orders = [[*map(Permutation(count, seed), range(count))] for seed in (0, 1)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count > 16:
        assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_every_order_of_a_few_numbers_is_about_as_likely():
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        order = tuple(map(Permutation(3, seed), range(3)))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and 850 < min(counts.values()) and max(counts.values()) < 1150


def test_weights_hold_in_every_block_and_every_source_comes():
    for weights in ([5, 3, 1.7, 0.3], [1, 1, 1], [1, 1e-9, 2]):
        shares = np.array(weights) / sum(weights)
        order = MixtureOrder(weights, seed=3)
        for block in (0, 7):
            sources = [order(number)[0] for number in range(block * BLOCK, (block + 1) * BLOCK)]
            had = np.bincount(sources, minlength=len(weights)) / BLOCK
            assert abs(had - shares).max() <= 0.001 and had.min() > 0
    assert sum(quotas_of([1.0] * 999)) == BLOCK


def test_rows_of_a_source_come_in_turn_and_are_counted():
    order = MixtureOrder([2, 1, 1], seed=0)
    came = [order(number) for number in range(2500)]
    for source in range(3):
        assert [n for s, n in came if s == source] == list(range(sum(s == source for s, _ in came)))
    for number in (0, 1, 999, 1000, 1234):
        begun = [sum(s == source for s, _ in came[:number]) for source in range(3)]
        assert order.counts(number) == begun
    assert [s for s, _ in came[:1000]] != [s for s, _ in came[1000:2000]]
    assert came != [MixtureOrder([2, 1, 1], seed=1)(number) for number in range(2500)]
    # The state of a training on the small world alone goes on: its rows are numbered as ever.
    assert [MixtureOrder([7.0], seed=5)(number) for number in range(3)] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_held_out_rows_are_the_share_and_stay_when_rows_are_added(share):
    apart = is_held_out(KEYS, share, seed=0)
    assert abs(apart.mean() - share) < 0.01
    more = np.concatenate([KEYS[::-1], splitmix64(KEYS)])
    assert (is_held_out(more, share, seed=0)[: len(KEYS)] == apart[::-1]).all()
    assert share == 0 or (is_held_out(KEYS, share, seed=1) != apart).any()
    assert (is_held_out(KEYS, 0.5, seed=0) >= apart).all(), (
        "a larger share keeps those of a smaller"
    )


def test_an_epoch_shows_every_row_once_in_its_own_order():
    rows = FakeRows(10)
    mixture = Mixture([shuffled(rows)])
    epochs = [ids(mixture, range(epoch * 10, epoch * 10 + 10)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [visit for _, visit in rows.read] == [0] * 10 + [1] * 10 + [2] * 10
    again = Mixture([shuffled(FakeRows(10))])
    assert ids(again, (25, 3, 17)) == [epochs[2][5], epochs[0][3], epochs[1][7]]
    assert ids(Mixture([shuffled(FakeRows(10), seed=1)]), range(10)) != epochs[0]


def test_the_first_rows_of_a_million_come_at_once_without_a_table():
    rows = FakeRows(1_000_000)
    part = shuffled(rows)
    tracemalloc.start()
    begun = time.perf_counter()
    first = ids(Mixture([part]), range(10))
    seconds = time.perf_counter() - begun
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1 and peak < 1_000_000 and len(set(first)) == 10
    assert len(rows.read) == 10, "and no other row is read"


def test_a_broken_row_is_counted_once_and_replaced_by_the_next_of_its_order():
    whole = ids(Mixture([shuffled(FakeRows(50))]), range(150))
    broken = frozenset({whole[3], whole[4], whole[9]})
    faults = RowFaults()
    mixture = Mixture([shuffled(FakeRows(50, broken))], faults=faults)
    came = ids(mixture, range(150))
    for had, comes in zip(whole, came, strict=True):
        assert comes == had if had not in broken else comes not in broken
    assert [came[3], came[4], came[9]] == [whole[5], whole[5], whole[10]]
    assert faults.counts == {"fake": 3} and len(faults) == 3, "three epochs met each"
    named = faults.take()
    assert {fault.number for fault in named} == broken and faults.take() == []
    assert str(named[0]) == f"fake:{named[0].number + 1}: this one is broken"
    # Another process that begins in the middle reads the same rows.
    later = Mixture([shuffled(FakeRows(50, broken))])
    assert ids(later, range(149, 60, -7)) == [came[n] for n in range(149, 60, -7)]


def test_strict_stops_at_the_first_broken_row():
    mixture = Mixture([shuffled(FakeRows(5, frozenset(range(5))))], faults=RowFaults(strict=True))
    with pytest.raises(DataError, match="this one is broken") as caught:
        mixture(0)
    assert caught.value.where.startswith("fake:")


def test_a_source_in_which_all_is_broken_ends_after_one_pass():
    rows = FakeRows(2000, frozenset(range(2000)))
    mixture = Mixture([shuffled(FakeRows(10)), shuffled(rows, "bad")], [1, 1])
    with pytest.raises(DataError, match="none of 2000 rows of 'bad' can be used") as caught:
        ids(mixture, range(20))
    assert sorted(number for number, _ in rows.read) == list(range(2000))
    assert "orthus data check" in caught.value.hint


def test_rows_that_are_made_mix_with_rows_that_are_read():
    made = MadeRows("made", lambda n: Document(turn("model", "a"), id=str(-1 - n)))
    mixture = Mixture([made, shuffled(FakeRows(7))], [3, 1])
    came = ids(mixture, range(2000))
    assert [row for row in came if row < 0] == list(range(-1, -1501, -1)), "made rows come in turn"
    assert mixture.epochs(2000) == {"fake": 500 / 7}
    once = [int(each.document.id) for each, _ in zip(mixture.once(), range(100), strict=False)]
    assert sorted(row for row in once if row >= 0) == list(range(7)), "each of a data set once"


def test_a_change_is_applied_and_a_rule_counts_what_it_refuses():
    def no_multiples_of_three(document: Document) -> None:
        if int(document.id) % 3 == 0:
            raise ValueError("a multiple of three")

    mixture = Mixture(
        [shuffled(FakeRows(9))],
        rule=no_multiples_of_three,
        change=lambda document: Document(document.segments, id=f"1{document.id}"),
    )
    assert set(ids(mixture, range(9))) == {11, 12, 14, 15, 17, 18}
    assert mixture.faults.counts == {"fake": 3}
