"""The rules of a row: when a picture may, must and can no longer begin, and how a row ends."""

from __future__ import annotations

import torch

from orthus_core.events import ImageBegun, PatchDone, TextPiece
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Context, Prompt
from orthus_core.samplers.sequence import Phase, SequenceState
from tests.conftest import make_tiny_config

EOS, EOI, BOI, SEP, IMAGE, WORD = 2, 36, 37, 38, 39, 40
PATCHES, CONTEXT = 4, 96
ROOM = PATCHES + 2


def row_of(
    length: int = 3, settings: SamplingParams | None = None, negatives: int = 0
) -> SequenceState:
    prompt = Prompt(
        Context((WORD,) * length), negatives=(Context((WORD,) * negatives),) if negatives else ()
    )
    return SequenceState(
        0, prompt, settings or SamplingParams(max_images=1, max_text=10), make_tiny_config()
    )


def fill(row: SequenceState) -> list:
    return [event for _ in range(PATCHES) for event in row.draw(torch.zeros(8))]


def test_an_image_begins_only_when_its_patches_fit():
    assert row_of(CONTEXT - ROOM).may_begin_image
    assert not row_of(CONTEXT - ROOM + 1).may_begin_image


def test_an_image_begins_only_when_it_fits_what_it_is_guided_against():
    assert row_of(3, negatives=CONTEXT - ROOM).may_begin_image
    assert not row_of(3, negatives=CONTEXT - ROOM + 1).may_begin_image


def test_an_image_that_just_fits_is_followed_by_the_end_of_the_row():
    row = row_of(CONTEXT - ROOM)
    row.say(BOI)
    fill(row)
    row.close()
    assert len(row.ids) == CONTEXT
    assert row.phase is Phase.NONE and row.ended == "context"


def test_pictures_alone_open_at_once_and_end_the_row():
    row = row_of(settings=SamplingParams(max_images=2))
    for image in range(2):
        assert row.phase is Phase.OPEN
        # Nothing was forced on the model: no text was wanted.
        assert row.open() == [ImageBegun(0, row.images, forced=False)]
        events = fill(row)
        assert events[-1] == PatchDone(0, image, PATCHES, PATCHES)
        if row.phase is Phase.CLOSE:
            row.close()
    assert row.ended == "images"
    assert row.ids[3:] == [BOI, *[IMAGE] * PATCHES, EOI, BOI, *[IMAGE] * PATCHES]


def test_text_goes_on_after_a_picture_with_eoi():
    row = row_of()
    row.say(WORD)
    assert row.say(BOI) == [ImageBegun(0, 0, forced=False)]
    fill(row)
    assert row.phase is Phase.CLOSE
    row.close()
    assert row.ids[3:] == [WORD, BOI, *[IMAGE] * PATCHES, EOI]
    assert row.phase is Phase.WRITE
    assert not row.may_begin_image  # one was wanted


def test_the_end_is_the_end_unless_a_picture_is_owed():
    for end in (EOS, SEP):
        row = row_of()
        assert row.say(end) == [] and row.ended == "end"
        owing = row_of(settings=SamplingParams(max_images=1, min_images=1, max_text=10))
        assert owing.say(end) == [ImageBegun(0, 0, forced=True, ending=True)]
        assert owing.phase is Phase.DRAW and owing.ids[-1] == BOI


def test_a_configuration_may_name_several_ends():
    config = make_tiny_config()
    config.eos_token_id = [EOS, WORD + 1]
    row = SequenceState(
        0, Prompt(Context((WORD,))), SamplingParams(max_images=0, max_text=10), config
    )
    row.say(WORD + 1)
    assert row.ended == "end"


def test_an_owed_picture_comes_after_so_much_text_and_the_count_begins_again_after_it():
    settings = SamplingParams(max_images=2, min_images=2, max_text=10, text_before_image=2)
    row = row_of(settings=settings)
    for _ in range(2):
        assert row.phase is Phase.WRITE
        assert row.say(WORD) == [TextPiece(0, "", (WORD,))]
        row.say(WORD)
        assert row.phase is Phase.OPEN
        assert row.open() == [ImageBegun(0, row.images, forced=True)]
        fill(row)
        row.close()
    assert row.phase is Phase.WRITE


def test_an_owed_picture_comes_when_the_text_is_used_up():
    row = row_of(settings=SamplingParams(max_images=1, min_images=1, max_text=1))
    row.say(WORD)
    assert row.phase is Phase.OPEN


def test_an_owed_picture_without_room_ends_the_row_and_says_so():
    settings = SamplingParams(max_images=2, min_images=2, max_text=10, text_before_image=1)
    row = row_of(CONTEXT - ROOM - 2, settings)
    row.say(WORD)
    row.open()
    fill(row)
    row.close()
    row.say(WORD)
    assert row.ended == "context"


def test_an_owed_picture_begins_where_it_just_fits():
    settings = SamplingParams(max_images=1, min_images=1, max_text=50, end_with_image=True)
    row = row_of(CONTEXT - ROOM - 2, settings)
    row.say(WORD)
    assert row.phase is Phase.WRITE
    row.say(WORD)
    assert row.phase is Phase.OPEN
    assert row.open() == [ImageBegun(0, 0, forced=True)]
    fill(row)
    assert row.ended == "images" and len(row.ids) == CONTEXT - 1, "all but [EOI]"


def test_text_ends_at_its_length():
    row = row_of(settings=SamplingParams(max_images=0, max_text=2))
    row.say(WORD)
    row.say(WORD)
    assert row.ended == "length"
