"""Which rows a step gets: the same after a resume and on any number of devices, sorted windows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from orthus_core.data.collate import collate
from orthus_core.data.document import Document, Place, turn
from orthus_core.data.encode import EncodedRow, TokenIds
from orthus_core.data.pictures import BytesPicture
from orthus_core.data.sources import Batches, MadeRows, Mixture, ShuffledRows
from orthus_core.errors import DataError

IDS = TokenIds(bos=0, eos=1, pad=2, sep=3, boi=4, eoi=5, image=6)


def document(number: int) -> Document:
    return Document(turn("user", str(number)) + turn("model", "x"), id=str(number))


def row(document: Document) -> EncodedRow:
    """As many tokens as the number modulo 7, plus its own id as the first."""
    number = int(document.id)
    ids = [10 + number, *[9] * (number % 7)]
    return EncodedRow(ids, [-100] * len(ids), ())


def batches(make=document, encode=row, batch_size=4, **options) -> Batches:
    source = Mixture([MadeRows("made", make)])
    return Batches(source, encode, partial(collate, ids=IDS), batch_size=batch_size, **options)


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


@pytest.mark.parametrize("window", [1, 3])
def test_a_step_has_the_same_rows_on_any_number_of_devices(window: int):
    def steps(shards: int) -> list[list[int]]:
        devices = [batches(window=window, shard=n, shards=shards) for n in range(shards)]
        each = [[numbers(device.rows(step)) for device in devices] for step in range(6)]
        assert {len(share) for step in each for share in step} == {4 // shards}
        return [sorted(number for share in step for number in share) for step in each]

    alone = steps(1)
    assert steps(2) == alone and steps(4) == alone
    assert sorted(number for step in alone for number in step) == list(range(24))


def test_steps_of_a_window_keep_an_order_without_lengths_alike_on_all_devices():
    def lengths(seed: int, shard: int) -> list[int]:
        made = batches(window=7, seed=seed, batch_size=14, shard=shard, shards=2)
        return [sum(len(row.ids) for row in made.rows(step)) for step in range(14)]

    first = lengths(0, 0)
    gaps = [abs(one - other) for one, other in zip(first, lengths(0, 1), strict=True)]
    assert max(gaps) <= 2, "so that no device waits for another"
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

        made = batches(drawing, remembered, seed=seed)
        made.condition_dropout = chance
        for step in order:
            made.rows(step)
        return [not kept[number] for number in range(100)]

    assert 30 < sum(dropped(0)) < 70 and sum(dropped(0, chance=0.0)) == 0
    assert dropped(0, order=reversed(range(25))) == dropped(0)
    assert dropped(1) != dropped(0)


class TenEach:
    """A data set of ten rows, in which rows 2, 3 and 7 have pictures that cannot be read."""

    where = identity = "ten"
    passed_over = ()

    def __init__(self, first: int) -> None:
        self.first = first

    def __len__(self) -> int:
        return 10

    def place(self, number: int) -> Place:
        return Place(Path("ten"), number + 1)

    def document(self, number: int, visit: int = 0) -> Document:
        return document(self.first + number)


@pytest.mark.parametrize("window", [1, 4])
def test_a_picture_that_cannot_be_read_is_replaced_in_its_source_on_every_device(window: int):
    def ready(row: EncodedRow) -> EncodedRow:
        if (row.ids[0] - 10) % 10 in (2, 3, 7):
            raise DataError("this is no picture")
        return row

    def steps(shards: int, unchecked: bool = False) -> list[list[int]]:
        parts = [ShuffledRows(str(n), TenEach(10 * n), np.arange(10), seed=n) for n in range(2)]
        mixture = Mixture(parts, [1, 1])
        devices = [
            Batches(
                mixture,
                row,
                partial(collate, ids=IDS),
                batch_size=4,
                window=window,
                shard=shard,
                shards=shards,
                **({} if unchecked else {"ready": ready}),
            )
            for shard in range(shards)
        ]
        found = [
            sorted(number for device in devices for number in numbers(device.rows(step)))
            for step in range(8)
        ]
        assert unchecked or mixture.faults.counts == {"0": 3, "1": 3}
        return found

    def of(source: int, rows: list[list[int]]) -> list[int]:
        return [sum(number // 10 == source for number in step) for step in rows]

    alone = steps(1)
    assert steps(2) == alone and steps(4) == alone
    assert not {2, 3, 7} & {number % 10 for step in alone for number in step}
    whole = steps(1, unchecked=True)
    assert of(0, alone) == of(0, whole), "by a row of the same data set"
    assert alone != whole
