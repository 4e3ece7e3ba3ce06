"""A small byte-level BPE with Chameleon's special tokens, by name and in Chameleon's order.

    0 <s>   1 <pad>   2 </s>   3 <unk>   4 ... codes IMGIMGAZ, IMGIMGBZ, ...
    then <eoss> [EOI], <racm3:break> [BOI], <reserved08706> SEP, <image>, then 256 bytes and merges

Text is converted to lower case, and a space is put before the first word, as before all others. A
small model sees each name only a few times, so the word in "Snowman", "SNOWMAN" and "a snowman"
should be the same known token. The price is that the model writes in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from orthus_core.errors import DataError
from orthus_core.model.config import (
    BOI_TOKEN,
    EOI_TOKEN,
    IMAGE_TOKEN,
    SEP_TOKEN,
    token_name_of_code,
)

BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN = "<s>", "<pad>", "</s>", "<unk>"
BYTES = 256


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, num_codes: int
) -> PreTrainedTokenizerFast:
    """Learns merges from texts; the same texts give the same tokenizer.

    Args:
        texts: Texts like those that the model will read and write.
        vocab_size: Number of text tokens, including bytes; fewer if the texts have too few pairs.
        num_codes: Number of the autoencoder's codes, each of which gets a token.

    Raises:
        DataError: if `vocab_size` is smaller than the number of bytes.
    """
    if vocab_size < BYTES:
        raise DataError(f"a vocabulary of {vocab_size} text tokens cannot hold the {BYTES} bytes")
    special = [BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN]
    special += [token_name_of_code(code) for code in range(num_codes)]
    special += [EOI_TOKEN, BOI_TOKEN, SEP_TOKEN, IMAGE_TOKEN]

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # As in Chameleon's tokenizer: [BOS] comes first, and nothing is appended.
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS_TOKEN} $A",
        pair=f"{BOS_TOKEN} $A $B",
        special_tokens=[(BOS_TOKEN, tokenizer.token_to_id(BOS_TOKEN))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        unk_token=UNK_TOKEN,
        sep_token=SEP_TOKEN,
        extra_special_tokens={
            "image_token": IMAGE_TOKEN,
            "boi_token": BOI_TOKEN,
            "eoi_token": EOI_TOKEN,
        },
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text as token ids, without [BOS].

    A special token in the text ("<image>") is read letter by letter, so that no text can insert a
    picture.
    """
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
