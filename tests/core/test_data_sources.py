"""Which rows a step gets: the same after a resume, each document once an epoch, sorted windows."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from orthus_core.data.collate import collate
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import EncodedRow, TokenIds
from orthus_core.data.pictures import BytesPicture
from orthus_core.data.sources import Batches, ShuffledSource, hold_out
from orthus_core.errors import DataError

IDS = TokenIds(bos=0, eos=1, pad=2, sep=3, boi=4, eoi=5, image=6)


def document(number: int) -> Document:
    return Document(turn("user", str(number)) + turn("model", "x"), id=str(number))


def row(document: Document) -> EncodedRow:
    """As many tokens as the number modulo 7, plus its own id as the first."""
    number = int(document.id)
    ids = [10 + number, *[9] * (number % 7)]
    return EncodedRow(ids, [-100] * len(ids), ())


def batches(**options) -> Batches:
    return Batches(document, row, partial(collate, ids=IDS), batch_size=4, **options)


def numbers(rows: list[EncodedRow]) -> list[int]:
    return [row.ids[0] - 10 for row in rows]


@pytest.mark.parametrize("window", [1, 3])
def test_a_step_gets_the_same_batch_whatever_came_before(window: int):
    straight = batches(window=window, seed=5)
    before = [straight(step).ids_BS for step in range(8)]
    for step in (7, 2, 5):
        assert torch.equal(batches(window=window, seed=5)(step).ids_BS, before[step])


@pytest.mark.parametrize("window", [1, 3])
def test_every_row_is_used_once(window: int):
    made = batches(window=window)
    used = [number for step in range(6) for number in numbers(made.rows(step))]
    assert sorted(used) == list(range(24))


def test_a_window_keeps_rows_of_one_length_together():
    def padding(window: int) -> int:
        made = batches(window=window)
        return sum(int((1 - made(step).attention_mask_BS).sum()) for step in range(21))

    assert padding(7) < padding(1) / 3


def test_devices_share_no_row():
    used = [
        number
        for shard in range(2)
        for step in range(6)
        for number in numbers(batches(window=3, shard=shard, shards=2).rows(step))
    ]
    assert sorted(used) == list(range(48))


def test_an_epoch_shows_every_document_once_in_its_own_order():
    source = ShuffledSource([document(n) for n in range(10)], seed=0)
    epochs = [[source(epoch * 10 + place).id for place in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert source(3).id == epochs[0][3]


def test_orders_come_from_the_seed_whatever_was_asked_for_before():
    documents = [document(n) for n in range(10)]

    def epoch(source: ShuffledSource, number: int) -> list[str]:
        return [source(number * 10 + place).id for place in range(10)]

    one, again, other = (ShuffledSource(documents, seed=seed) for seed in (0, 0, 1))
    straight = [epoch(one, number) for number in range(3)]
    assert [epoch(again, number) for number in (2, 0, 1)] == [straight[n] for n in (2, 0, 1)]
    assert epoch(other, 0) != straight[0]


def test_steps_of_a_window_keep_an_order_without_lengths_alike_on_all_devices():
    def lengths(seed: int, shard: int) -> list[int]:
        made = batches(window=7, seed=seed, shard=shard, shards=2)
        return [sum(len(row.ids) for row in made.rows(step)) for step in range(14)]

    first = lengths(0, 0)
    assert lengths(0, 1) == first, "so that no device waits for another"
    assert first[:7] not in (sorted(first[:7]), sorted(first[:7], reverse=True))
    assert first[7:] != first[:7] and lengths(1, 0) != first


def test_each_row_is_dropped_by_a_draw_of_its_own_that_is_the_same_again():
    picture = BytesPicture(b"")

    def drawing(number: int) -> Document:
        return Document(turn("user", "a cat") + turn("model", picture), id=str(number))

    def dropped(seed: int, chance: float = 0.5, order=range(25)) -> list[bool]:
        kept: dict[int, bool] = {}

        def remembered(given: Document) -> EncodedRow:
            kept[int(given.id)] = given.user[0].value == "a cat"
            return row(given)

        made = Batches(drawing, remembered, partial(collate, ids=IDS), batch_size=4, seed=seed)
        made.condition_dropout = chance
        for step in order:
            made.rows(step)
        return [not kept[number] for number in range(100)]

    assert 30 < sum(dropped(0)) < 70 and sum(dropped(0, chance=0.0)) == 0
    assert dropped(0, order=reversed(range(25))) == dropped(0)
    assert dropped(1) != dropped(0)


def test_no_documents_are_refused():
    with pytest.raises(DataError, match="no documents"):
        ShuffledSource([], seed=0)


@pytest.mark.parametrize("share, held", [(0.0, 0), (0.2, 7), (0.5, 18)])
def test_every_item_is_either_trained_on_or_held_out(share: float, held: int):
    items = [f"item {number}" for number in range(37)]
    kept, apart = hold_out(items, share, seed=3)
    assert len(apart) == held, "the share, rounded down"
    assert sorted(kept + apart, key=items.index) == items, "each once, and in one of both only"
    assert kept == sorted(kept, key=items.index) and apart == sorted(apart, key=items.index)
    assert hold_out(items, share, seed=3) == (kept, apart)
    if held:
        assert hold_out(items, share, seed=4)[1] != apart
        assert apart != items[:held] and apart != items[-held:]
