"""The small tokenizer: Chameleon's special tokens, robust words, no smuggled pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ChameleonProcessor, PreTrainedTokenizerFast
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil

from orthus_core.data.document import Document, turn
from orthus_core.data.encode import TokenIds, encode
from orthus_core.data.pictures import BytesPicture
from orthus_core.data.tokenizer import text_ids, train_tokenizer
from orthus_core.errors import DataError
from orthus_core.model.config import OrthusConfig
from tests.conftest import config_of

CODES = 12
TEXTS = ["a snowman", "a picture of a snowman", "an apple. Please continue this story."] * 5


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=300, num_codes=CODES)


def test_special_tokens_stand_in_chameleons_order(tokenizer: PreTrainedTokenizerFast):
    names = tokenizer.convert_ids_to_tokens(list(range(4 + CODES + 4)))
    assert names[:5] == ["<s>", "<pad>", "</s>", "<unk>", "IMGIMGAZ"]
    assert names[4 + 10] == "IMGIMGBAZ"
    assert names[4 + CODES :] == ["<eoss>", "<racm3:break>", "<reserved08706>", "<image>"]


def test_the_vocabulary_makes_a_config_that_finds_its_codes(tokenizer: PreTrainedTokenizerFast):
    config = OrthusConfig(vocabulary_map=tokenizer.get_vocab(), vq_config={"num_embeddings": CODES})
    assert config.code_token_ids == list(range(4, 4 + CODES))
    assert config.boi_token_id == tokenizer.convert_tokens_to_ids("<racm3:break>")


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast):
    again = train_tokenizer(iter(TEXTS), vocab_size=300, num_codes=CODES)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_name_is_the_same_tokens_first_or_later_and_in_any_case(
    tokenizer: PreTrainedTokenizerFast,
):
    name = text_ids(tokenizer, "snowman")
    assert text_ids(tokenizer, "Snowman") == text_ids(tokenizer, "SNOWMAN") == name
    assert text_ids(tokenizer, "a snowman")[-len(name) :] == name


@pytest.mark.parametrize("text", ["a snowman", "piñata 🐶", "naïve <b>"])
def test_any_text_comes_back_in_lower_case(tokenizer: PreTrainedTokenizerFast, text: str):
    assert tokenizer.decode(text_ids(tokenizer, text)).strip() == text


def test_no_text_can_smuggle_in_a_special_token(tokenizer: PreTrainedTokenizerFast):
    for name in ("<image>", "IMGIMGAZ", "</s>", "<racm3:break>", "<reserved08706>"):
        assert min(text_ids(tokenizer, f"look {name} here")) >= 4 + CODES + 4
    assert tokenizer("<image>").input_ids[-1] == tokenizer.convert_tokens_to_ids("<image>")


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(DataError, match="cannot hold the 256 bytes"):
        train_tokenizer(TEXTS, vocab_size=100, num_codes=CODES)


def test_chameleons_processor_works_with_it_and_survives_saving(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
):
    images = ChameleonImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    ChameleonProcessor(images, tokenizer, image_seq_length=4).save_pretrained(tmp_path)
    processor = ChameleonProcessor.from_pretrained(tmp_path)
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    picture = Image.new("RGB", (20, 30))
    made = processor(text="<image>a snowman", images=picture, return_tensors="pt")
    assert made.pixel_values.shape == (1, 3, 16, 16)

    config = config_of(tokenizer, CODES)
    document = Document(turn("user", BytesPicture(b""), "a snowman"))
    row = encode(document, processor.tokenizer, TokenIds.of(config), patches=4)
    assert torch.equal(made.input_ids[0], torch.tensor(row.ids))
