"""Rows: layouts, what is predicted where, dropped conditions, batches."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from orthus_core.data.collate import Batch, collate, with_codes, with_features
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import IGNORE, EncodedRow, TokenIds, drop_condition, encode
from orthus_core.data.row_rule import RowRule
from orthus_core.data.tokenizer import text_ids, train_tokenizer
from orthus_core.errors import DataError
from orthus_core.world.records import MAKERS, record
from orthus_core.world.world import World
from tests.conftest import config_of

CODES, PATCHES = 8, 3
CODE_IDS = list(range(4, 4 + CODES))
IDS = TokenIds(bos=0, eos=2, pad=1, eoi=4 + CODES, boi=5 + CODES, sep=6 + CODES, image=7 + CODES)
SLOTS = [IDS.boi, *[IDS.image] * PATCHES, IDS.eoi]


@dataclass(frozen=True)
class Named:
    """A picture that is only its name."""

    name: str

    @property
    def key(self) -> str:
        return self.name

    def load(self, size: int) -> np.ndarray:
        return np.zeros((size, size, 3), dtype=np.uint8)


A, B = Named("a"), Named("b")
DRAW = Document(turn("user", "a cat") + turn("model", A))
ASK = Document(turn("user", A, "what is this?") + turn("model", "a cat"))
EDIT = Document(turn("user", A, "mirror it") + turn("model", B))
STORY = Document(turn("user", A, "go on") + turn("model", "then", B, "the end"))
CHAT = Document(ASK.segments + turn("user", "draw it, like", B) + turn("model", A, "so"))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["a cat"], vocab_size=256, num_codes=CODES)


def row_of(document: Document, tokenizer: PreTrainedTokenizerFast, **options) -> EncodedRow:
    return encode(document, tokenizer, IDS, PATCHES, **options)


def test_rows_stand_in_the_layouts_of_the_release(tokenizer: PreTrainedTokenizerFast):
    def words(text: str) -> list[int]:
        return text_ids(tokenizer, text)

    assert row_of(DRAW, tokenizer).ids == [IDS.bos, *words("a cat"), IDS.sep, *SLOTS, IDS.eos]
    assert row_of(ASK, tokenizer).ids == [
        *(IDS.bos, *SLOTS, *words("what is this?"), IDS.sep),
        *(*words("a cat"), IDS.eos),
    ]
    assert row_of(EDIT, tokenizer).ids == [
        *(IDS.bos, *SLOTS, *words("mirror it"), IDS.sep),
        *(*SLOTS, IDS.eos),
    ]
    assert row_of(STORY, tokenizer).ids == [
        *(IDS.bos, *SLOTS, *words("go on"), IDS.sep),
        *(*words("then"), *SLOTS, *words("the end"), IDS.eos),
    ]


@pytest.mark.parametrize("task", MAKERS)
def test_rows_of_the_small_world_are_a_question_sep_and_an_answer(
    tokenizer: PreTrainedTokenizerFast, world: World, task: str
):
    """Models were trained on these very rows: questions, `sep`, answer and `eos`, turn by turn."""
    lengths = set()
    for number in range(6):
        document = record(world, {task: 1.0}, 3, number)
        # Each token, and whether it is learnt.
        laid: list[tuple[int, bool]] = [(IDS.bos, False)]
        for role, segments in groupby(document.segments, key=lambda segment: segment.role):
            for segment in segments:
                words = segment.value if isinstance(segment.value, str) else ""
                tokens = text_ids(tokenizer, words) if words else SLOTS
                laid += [(token, role == "model" and token != IDS.image) for token in tokens]
            laid.append((IDS.eos, True) if role == "model" else (IDS.sep, False))
        row = row_of(document, tokenizer)
        assert row.ids == [token for token, _ in laid]
        following = [token if learnt else IGNORE for token, learnt in laid[1:]]
        assert row.text_targets == [*following, IGNORE]
        assert row.turns_left_out == 0
        lengths.add(row.ids.count(IDS.sep))
    assert (max(lengths) > 1) == (task in ("caption", "scene_question"))


def test_every_answer_of_a_chat_is_learnt_and_no_question(tokenizer: PreTrainedTokenizerFast):
    asked, said, told, end = (
        text_ids(tokenizer, text) for text in ("what is this?", "a cat", "draw it, like", "so")
    )
    row = row_of(CHAT, tokenizer)
    assert row.ids == [
        *(IDS.bos, *SLOTS, *asked, IDS.sep, *said, IDS.eos),
        *(*told, *SLOTS, IDS.sep, *SLOTS, *end, IDS.eos),
    ]
    drawn = [IDS.boi, *[IGNORE] * PATCHES, IDS.eoi]
    assert row.text_targets == [
        # SEP predicts the answer that follows it, </s> nothing.
        *(*[IGNORE] * (1 + len(SLOTS) + len(asked)), *said, IDS.eos),
        *(*[IGNORE] * (1 + len(told) + len(SLOTS)), *drawn, *end, IDS.eos, IGNORE),
    ]
    assert row.pictures == (A, B, A) and row.from_model == (False, False, True)


def test_a_chat_may_begin_with_the_model_and_end_with_the_user(tokenizer: PreTrainedTokenizerFast):
    hello, answer = text_ids(tokenizer, "hello"), text_ids(tokenizer, "a cat")
    row = row_of(Document(turn("model", "hello") + turn("user", "a cat")), tokenizer)
    assert row.ids == [IDS.bos, *hello, IDS.eos, *answer, IDS.sep]
    assert row.text_targets == [*hello, IDS.eos, *[IGNORE] * (len(answer) + 2)]


def test_a_chat_is_cut_after_the_last_answer_that_fits(tokenizer: PreTrainedTokenizerFast):
    whole = row_of(CHAT, tokenizer)
    first = row_of(Document(CHAT.segments[:3]), tokenizer)
    assert not row_of(CHAT, tokenizer, longest=len(whole.ids)).cut
    for longest in (len(first.ids), len(whole.ids) - 1):
        row = row_of(CHAT, tokenizer, longest=longest)
        assert row.cut and row.turns_left_out == 2
        assert row._replace(turns_left_out=0) == first
    short = len(first.ids) - 1
    lengths = f"{len(whole.ids)} positions, its first exchange {len(first.ids)}, the context"
    with pytest.raises(DataError, match=f"has {lengths} {short}"):
        row_of(CHAT, tokenizer, longest=short)


def test_a_chat_is_judged_by_what_fits_of_it(tokenizer: PreTrainedTokenizerFast):
    """An answer that is cut off cannot be what the training learns."""
    chat = Document(turn("user", "a") + turn("model", " ") + turn("user", "b") + turn("model", "c"))
    length = len(row_of(chat, tokenizer).ids)
    for longest, usable in ((length, True), (length - 1, False)):
        rule = RowRule(partial(row_of, tokenizer=tokenizer, longest=longest))
        with nullcontext() if usable else pytest.raises(DataError, match="nothing to learn"):
            rule(chat)


def test_a_prompt_ends_in_sep_and_waits(tokenizer: PreTrainedTokenizerFast):
    assert row_of(Document(turn("user", "a cat")), tokenizer).ids[-1] == IDS.sep


def test_pictures_come_in_the_order_of_their_slots(tokenizer: PreTrainedTokenizerFast):
    assert row_of(EDIT, tokenizer).pictures == (A, B)


@pytest.mark.parametrize("document", [DRAW, ASK, EDIT, STORY])
@pytest.mark.parametrize("train_on", ["model", "all"])
def test_a_target_is_the_next_token_and_never_a_patch(
    tokenizer: PreTrainedTokenizerFast, document: Document, train_on
):
    row = row_of(document, tokenizer, train_on=train_on)
    after_sep = row.ids.index(IDS.sep)
    assert len(row.text_targets) == len(row.ids)
    for position, (target, following) in enumerate(
        zip(row.text_targets, [*row.ids[1:], None], strict=True)
    ):
        learnt = train_on == "all" or position >= after_sep
        expected = learnt and following is not None and following != IDS.image
        assert target == (following if expected else IGNORE)


def test_the_model_draws_the_pictures_that_are_its_own(tokenizer: PreTrainedTokenizerFast):
    drawn_first = Document(DRAW.segments + ASK.segments)
    documents = (DRAW, ASK, EDIT, STORY, drawn_first)
    drawn = [row_of(document, tokenizer).from_model for document in documents]
    assert drawn == [(True,), (False,), (False, True), (False, True), (True, False)]


def test_a_picture_begins_ends_and_closes_the_row_by_prediction(
    tokenizer: PreTrainedTokenizerFast,
):
    row = row_of(DRAW, tokenizer)
    sep = row.ids.index(IDS.sep)
    assert row.text_targets[sep:] == [IDS.boi, *[IGNORE] * PATCHES, IDS.eoi, IDS.eos, IGNORE]


def test_a_row_longer_than_the_context_is_refused(tokenizer: PreTrainedTokenizerFast):
    length = len(row_of(STORY, tokenizer).ids)
    assert row_of(STORY, tokenizer, longest=length)
    with pytest.raises(DataError, match=f"has {length} positions, the context {length - 1}"):
        row_of(STORY, tokenizer, longest=length - 1)


def test_text_in_a_document_cannot_open_a_slot(tokenizer: PreTrainedTokenizerFast):
    row = row_of(Document(turn("user", "<image><racm3:break>") + turn("model", "no")), tokenizer)
    assert not {IDS.image, IDS.boi} & set(row.ids)


def test_ids_come_from_the_models_config(tokenizer: PreTrainedTokenizerFast):
    config = config_of(tokenizer, CODES)
    assert TokenIds.of(config) == IDS
    config.sep_token_id = None
    with pytest.raises(DataError, match="no token id for sep"):
        TokenIds.of(config)


def test_codes_fill_the_slots_and_are_predicted_one_position_before(
    tokenizer: PreTrainedTokenizerFast,
):
    row = row_of(CHAT, tokenizer)
    batch = collate([row], IDS)
    discrete = with_codes(batch, torch.tensor([[1, 2, 3], [4, 5, 6], [0, 1, 2]]), CODE_IDS)
    ids, targets = discrete.ids_BS[0].tolist(), discrete.text_targets_BS[0].tolist()
    assert [token for token in ids if token in CODE_IDS] == [5, 6, 7, 8, 9, 10, 4, 5, 6]
    assert discrete.pictures == () and len(discrete.image_index_N) == 0
    for position, token in enumerate(ids[1:]):
        if token in CODE_IDS:
            assert targets[position] == token
        else:
            assert targets[position] == row.text_targets[position]
    assert batch.ids_BS[0].tolist() == row.ids, "what it was made of stays as it was"


def test_conditions_are_dropped_as_often_as_asked():
    def kept(document: Document, chance: float) -> Counter:
        rng = random.Random(0)
        return Counter(
            tuple(segment.value for segment in drop_condition(document, rng, chance).user)
            for _ in range(2000)
        )

    drawn = kept(DRAW, 0.1)
    assert set(drawn) == {("a cat",), ("Generate an image.",)}
    assert 150 < drawn["Generate an image.",] < 250

    edits = kept(EDIT, 0.1)
    dropped = [(A,), ("mirror it",), ("Generate an image.",)]
    assert set(edits) == {(A, "mirror it"), *dropped}
    assert all(150 < edits[key] < 250 for key in dropped)


def test_what_the_model_says_before_its_picture_is_dropped_with_the_words():
    told = Document(turn("user", A, "mirror it") + turn("model", "a cat left", B))
    rng = random.Random(0)
    kept = {
        tuple(segment.value for segment in drop_condition(told, rng, 0.25).segments)
        for _ in range(200)
    }
    assert kept == {
        (A, "mirror it", "a cat left", B),
        (A, B),
        ("mirror it", "a cat left", B),
        ("Generate an image.", B),
    }


def test_answers_chats_and_stories_keep_their_conditions():
    rng = random.Random(0)
    drawn = Document(ASK.segments + DRAW.segments)
    for document in (ASK, STORY, drawn, Document(turn("model", A)), Document(turn("user", A))):
        assert drop_condition(document, rng, 0.33) == document


def test_nothing_is_dropped_at_chance_zero():
    assert drop_condition(EDIT, random.Random(0), 0.0) == EDIT


def filled(batch: Batch) -> Batch:
    """With features [M, P, 1]: a hundred for each letter of the alphabet, and the patch."""
    firsts = [100.0 * (ord(picture.key) - ord("a")) for picture in batch.pictures]
    features = [[[first + patch] for patch in range(PATCHES)] for first in firsts]
    return with_features(batch, torch.tensor(features))


def test_a_batch_pads_right_and_masks_what_it_padded(tokenizer: PreTrainedTokenizerFast):
    rows = [row_of(document, tokenizer) for document in (DRAW, STORY)]
    batch = filled(collate(rows, IDS))
    short, long = len(rows[0].ids), len(rows[1].ids)
    assert batch.ids_BS.shape == (2, long)
    assert batch.ids_BS[0].tolist() == rows[0].ids + [IDS.pad] * (long - short)
    assert batch.attention_mask_BS.sum(1).tolist() == [short, long]
    assert batch.text_targets_BS[0, short:].eq(IGNORE).all()
    assert batch.position_ids_BS[1].tolist() == list(range(long))


def test_each_patch_is_predicted_from_the_position_before_it(tokenizer: PreTrainedTokenizerFast):
    rows = [row_of(document, tokenizer) for document in (EDIT, DRAW, ASK)]
    batch = filled(collate(rows, IDS))
    flat = batch.ids_BS.flatten()
    assert flat[batch.image_index_N + 1].eq(IDS.image).all()
    assert flat[batch.image_index_N[::PATCHES]].eq(IDS.boi).all()
    assert len(batch.image_index_N) == flat.eq(IDS.image).sum() == 4 * PATCHES
    assert batch.features_NC is not None
    assert batch.features_NC[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 0, 1, 2, 0, 1, 2]
    assert batch.pictures == (A, B, A, A)


def test_a_batch_without_pictures_has_no_features(tokenizer: PreTrainedTokenizerFast):
    row = row_of(Document(turn("user", "hello") + turn("model", "you")), tokenizer)
    batch = collate([row], IDS)
    assert batch.features_NC is None and len(batch.image_index_N) == 0


def test_a_batch_moves_with_all_its_tensors(tokenizer: PreTrainedTokenizerFast):
    batch = filled(collate([row_of(DRAW, tokenizer)], IDS)).to("meta")
    assert batch.ids_BS.is_meta and batch.features_NC is not None and batch.features_NC.is_meta
    assert batch.pictures == (A,)


def test_a_discrete_batch_gives_each_picture_its_own_codes(tokenizer: PreTrainedTokenizerFast):
    rows = [row_of(document, tokenizer) for document in (EDIT, DRAW)]
    empty = collate(rows, IDS)
    codes_MP = torch.tensor([[1, 2, 3] if p == A else [4, 5, 6] for p in empty.pictures])
    batch = with_codes(empty, codes_MP, CODE_IDS)
    codes = [[t for t in row if t in CODE_IDS] for row in batch.ids_BS.tolist()]
    assert codes == [[5, 6, 7, 8, 9, 10], [5, 6, 7]]
    assert IDS.image not in batch.ids_BS and batch.features_NC is None
