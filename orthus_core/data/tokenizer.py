"""A small byte-level BPE whose special tokens are Chameleon's, by name and in Chameleon's order.

    0 <s>   1 <pad>   2 </s>   3 <unk>   4 ... codes IMGIMGAZ, IMGIMGBZ, ...
    then <eoss> [EOI], <racm3:break> [BOI], <reserved08706> SEP, <image>, then 256 bytes and merges

Text is folded to lower case, and each text begins with a space as every later word does. A small
model sees each name a handful of times: "Snowman", "SNOWMAN" and "a snowman" should be one token
that it knows, at the price that what it writes is in lower case.
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
    """Learn merges from texts; the same texts give the same tokenizer.

    Args:
        texts: What the model will read and write.
        vocab_size: Text tokens, bytes included; fewer when the texts hold no more pairs.
        num_codes: Codes of the autoencoder, each of which gets a token.

    Raises:
        DataError: if `vocab_size` has no room for the bytes.
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
    # As Chameleon's own does: [BOS] first, nothing after.
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

    What looks like a special token inside the text ("<image>") is read as the letters it is made
    of, so that no text can smuggle in a picture.
    """
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
