"""A saved folder in the hands of transformers, its Trainer, peft and a hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)

from orthus_core import Orthus, OrthusForConditionalGeneration, OrthusProcessor
from orthus_core.api.inputs import input_image
from orthus_core.checkpoint.fingerprint import fingerprint
from orthus_core.data.collate import collate, with_features
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import TokenIds, encode
from orthus_core.errors import ArgumentError, HubError, PromptError
from orthus_core.losses.joint import JointLoss
from orthus_core.model.config import IGNORE
from orthus_core.results.metadata import pixel_hash
from orthus_core.samplers.text import UNFINISHED
from orthus_core.samplers.token_prompts import GeneratedImages, seeds_of_sequences

ROOT = Path(__file__).parents[2]
RED, BLUE = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")


@pytest.fixture(scope="module")
def model(tiny_folder) -> OrthusForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(tiny_folder).eval()


@pytest.fixture(scope="module")
def processor(tiny_folder) -> OrthusProcessor:
    return AutoProcessor.from_pretrained(tiny_folder)


def part(value: str | Image.Image) -> dict:
    if isinstance(value, str):
        return {"type": "text", "text": value}
    return {"type": "image", "image": value}


def said(role: str, *values: str | Image.Image) -> dict:
    return {"role": role, "content": [part(value) for value in values]}


def tokenized(processor, *chats, **more):
    conversation = list(chats) if len(chats) > 1 else chats[0]
    return processor.apply_chat_template(
        conversation,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True} if len(chats) > 1 else {},
        **more,
    )


def row_of(orthus: Orthus, *turns: tuple[str, list]):
    """The row of a document, and the features of its pictures."""
    segments = []
    for role, values in turns:
        read = [v if isinstance(v, str) else input_image(v).picture for v in values]
        segments += turn(role, *read)  # type: ignore[arg-type]
    config = orthus.model.config
    ids = TokenIds.of(config)
    return encode(Document(tuple(segments)), orthus.builder.tokenizer, ids, config.patches)


# Opening

FIRST_OURS = """
import sys, orthus_core
assert not {"torch", "transformers"} & set(sys.modules)
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
assert type(processor) is orthus_core.OrthusProcessor, type(processor)
assert type(model) is orthus_core.OrthusForConditionalGeneration
"""
ONLY_THEIRS = """
import sys
from transformers import AutoConfig, AutoModel, AutoProcessor
folder, trusted = sys.argv[1], {"trust_remote_code": True}
for opener in (AutoConfig, AutoProcessor):
    sys.modules["orthus_core"] = None  # as where the package is not installed
    try:
        opener.from_pretrained(folder, **trusted)
    except ImportError as error:
        assert "pip install -U orthus-kit" in str(error), error
    else:
        raise AssertionError("opened by whom?")
del sys.modules["orthus_core"]
processor = AutoProcessor.from_pretrained(folder, **trusted)
model = AutoModel.from_pretrained(folder, **trusted)
assert type(model).__module__ == "orthus_core.model.orthus", type(model).__module__
"""


@pytest.mark.parametrize("script", [FIRST_OURS, ONLY_THEIRS], ids=["ours first", "theirs alone"])
def test_a_new_process_opens_a_folder(script, tiny_folder, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "code")}
    words = [sys.executable, "-c", script, str(tiny_folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_none_of_our_files_goes_with_a_model(tiny_folder, tmp_path):
    """As after `trust_remote_code`, by which transformers registers the classes that it opened."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    processor = AutoProcessor.from_pretrained(tiny_folder)
    with pytest.MonkeyPatch.context() as patch:
        for cls in (type(model.config), type(processor)):
            patch.setattr(cls, "_auto_class", None)
            cls.register_for_auto_class()
        for saved in (model, processor):
            saved.save_pretrained(tmp_path / type(saved).__name__)
    for folder in tmp_path.iterdir():
        assert {path.name for path in folder.glob("*.py")} == {"orthus_kit.py"}


def test_a_folder_names_our_classes_and_keeps_its_fingerprint(tiny_folder, tmp_path):
    config = json.loads((tiny_folder / "config.json").read_text())
    assert config["auto_map"]["AutoModelForImageTextToText"].startswith("orthus_kit.")
    folder = shutil.copytree(tiny_folder, tmp_path / "plain")
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    assert fingerprint(folder) == fingerprint(tiny_folder)


def test_a_folder_of_an_earlier_version_opens_and_writes_as_well(tiny_folder, tmp_path, model):
    folder = shutil.copytree(tiny_folder, tmp_path / "earlier")
    for name in ("orthus_kit.py", "chat_template.jinja", "generation_config.json"):
        (folder / name).unlink()
    together = json.loads((folder / "processor_config.json").read_text())
    together = {k: v for k, v in together.items() if k != "auto_map"}
    together["processor_class"] = "ChameleonProcessor"
    (folder / "processor_config.json").write_text(json.dumps(together))
    opened = AutoModelForImageTextToText.from_pretrained(folder)
    prompt = torch.tensor([[0, 300, 38]])
    assert opened.generate(prompt, max_new_tokens=8).equal(model.generate(prompt, max_new_tokens=8))
    assert opened.generation_config.suppress_tokens == model.generation_config.suppress_tokens
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "ChameleonProcessor"


# Reading


def test_a_chat_is_read_as_rows_are(orthus, processor):
    question = said("user", RED, "what is this?")
    chat = [question, said("assistant", "a red fox"), said("user", "a snowman?")]
    row = row_of(
        orthus, ("user", [RED, "what is this?"]), ("model", ["a red fox"]), ("user", ["a snowman?"])
    )
    assert tokenized(processor, chat)["input_ids"][0].tolist() == row.ids
    text = processor.apply_chat_template(chat)
    again = processor(text=text, images=[RED], return_tensors="pt")["input_ids"][0]
    assert again.tolist() == row.ids, "neither [BOS] nor SEP twice"
    plain = processor(text="what is this?")["input_ids"][0].tolist()
    assert plain == list(orthus.builder.context("what is this?").ids)
    begun = [question, said("assistant", "a red fox")]
    open_ids = tokenized(processor, begun, continue_final_message=True)["input_ids"][0].tolist()
    assert (
        open_ids
        == row_of(orthus, ("user", [RED, "what is this?"]), ("model", ["a red fox"])).ids[:-1]
    )
    system = [said("system", "a snowman"), said("user", "a red fox")]
    (ids,) = tokenized(processor, system)["input_ids"].tolist()
    assert ids == list(orthus.builder.context("a snowman a red fox").ids)


def test_the_template_says_what_the_model_is_to_learn(orthus, processor):
    chat = [said("user", RED, "what is this?"), said("assistant", "a red fox")]
    inputs = tokenized(processor, chat, return_assistant_tokens_mask=True)
    row = row_of(orthus, ("user", [RED, "what is this?"]), ("model", ["a red fox"]))
    learnt = [target != IGNORE for target in row.text_targets]
    assert inputs["input_ids"][0].tolist() == row.ids
    assert inputs["assistant_masks"][0].bool().tolist() == [False, *learnt[:-1]]


# Forward


@pytest.fixture(scope="module")
def rows(orthus):
    """Rows of several lengths, and a batch of them: pictures of the user and of the model."""
    encoded = [
        row_of(orthus, ("user", ["a red fox"]), ("model", [RED])),
        row_of(orthus, ("user", [BLUE, "what is this?"]), ("model", ["a snowman a snowman"])),
        row_of(orthus, ("user", [RED, "a snowman"]), ("model", ["a snowman", BLUE])),
    ]
    batch = collate(encoded, TokenIds.of(orthus.model.config), own_pictures=True)
    batch = with_features(batch, orthus.builder.features(batch.pictures))
    labels_BS = torch.full_like(batch.ids_BS, IGNORE)
    labels_BS[:, 1:] = batch.text_targets_BS[:, :-1]
    slots_BS = batch.ids_BS == orthus.model.config.image_token_id
    wanted_N = batch.image_targets_N
    labels_BS[slots_BS] = torch.where(wanted_N, orthus.model.config.image_token_id, IGNORE)
    return batch, labels_BS


@pytest.mark.parametrize(("weights", "head"), [({}, "diffusion"), ({"lambda_image": 0.5}, "mse")])
def test_the_loss_of_labels_is_the_joint_loss(orthus, rows, weights, head):
    batch, labels_BS = rows
    seeds_M = torch.arange(len(batch.pictures)) + 7
    batch = replace(batch, noise_seeds_M=seeds_M)
    model = orthus.model
    if head == "mse":
        fields = model.config.to_dict() | {"image_head": head}
        model = OrthusForConditionalGeneration(type(model.config)(**fields)).eval()
    output = model(
        input_ids=batch.ids_BS,
        attention_mask=batch.attention_mask_BS,
        features=batch.features_NC,
        labels=labels_BS,
        noise_seeds=seeds_M,
        **weights,
    )
    expected = JointLoss(model, **weights).eval()(batch)
    assert output.loss.equal(expected.total)
    assert output.text_loss.equal(expected.text) and output.image_loss.equal(expected.image)
    assert output.past_key_values is None


def test_padding_on_the_left_changes_neither_loss_nor_logits(model, rows):
    batch, labels_BS = rows
    inputs = {"features": batch.features_NC, "noise_seeds": torch.arange(len(batch.pictures))}
    right = model(batch.ids_BS, attention_mask=batch.attention_mask_BS, labels=labels_BS, **inputs)
    rolled = {"ids": batch.ids_BS, "mask": batch.attention_mask_BS, "labels": labels_BS}
    empty = (batch.attention_mask_BS == 0).sum(1)
    assert empty.any()
    left = {
        name: torch.stack([row.roll(int(n)) for row, n in zip(value, empty, strict=True)])
        for name, value in rolled.items()
    }
    moved = model(left["ids"], attention_mask=left["mask"], labels=left["labels"], **inputs)
    torch.testing.assert_close(moved.loss, right.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        moved.logits[left["mask"] == 1],
        right.logits[batch.attention_mask_BS == 1],
        rtol=1e-4,
        atol=1e-4,
    )


def test_forward_returns_what_is_asked_for(model, rows):
    batch, _ = rows
    never = [*model.code_token_ids, model.config.image_token_id]
    inputs = {"input_ids": batch.ids_BS, "attention_mask": batch.attention_mask_BS}
    whole = model(**inputs, features=batch.features_NC, output_hidden_states=True)
    assert whole.loss is None and whole.past_key_values is not None
    assert len(whole.hidden_states) == model.config.num_hidden_layers + 1
    assert (whole.logits[..., never] == torch.finfo(whole.logits.dtype).min).all()
    assert whole.logits.isfinite().all(), "an entropy of -inf is NaN"
    last = model(**inputs, features=batch.features_NC, logits_to_keep=1, use_cache=False)
    assert last.past_key_values is None and last.logits.shape[1] == 1
    torch.testing.assert_close(last.logits, whole.logits[:, -1:])
    as_tuple = model(**inputs, features=batch.features_NC, return_dict=False)
    assert isinstance(as_tuple, tuple) and as_tuple[0].equal(whole.logits)
    words = model(batch.ids_BS[:, :2], labels=batch.ids_BS[:, :2])
    assert words.image_loss == 0 and words.loss.equal(words.text_loss), "no picture, no slot"
    with pytest.raises(PromptError, match="image slots"):
        model(**inputs)
    with pytest.raises(ArgumentError, match="both given"):
        model(inputs_embeds=model.embed(batch.ids_BS, batch.features_NC), features=whole.logits)
    with pytest.raises(ArgumentError, match="ids"):
        model(inputs_embeds=model.embed(batch.ids_BS, batch.features_NC), labels=batch.ids_BS)


# Writing and drawing


def test_text_is_what_our_own_loop_writes(orthus, model, processor):
    pictures = [RED, BLUE]
    chats = [[said("user", picture, "what is this?")] for picture in pictures]
    expected = orthus.caption(pictures, "what is this?", max_new_tokens=12).texts
    inputs = tokenized(processor, *chats)
    ids_BS = model.generate(**inputs, max_new_tokens=12)
    assert ids_BS[:, : inputs["input_ids"].shape[1]].equal(inputs["input_ids"])
    new = processor.post_process_multimodal_output(ids_BS[:, inputs["input_ids"].shape[1] :])
    # Ours keeps back a character whose last bytes are missing.
    assert [text.strip().rstrip(UNFINISHED) for text in new] == expected
    length = inputs["input_ids"].shape[1]
    assert model.generate(**inputs, max_length=length + 2, min_length=0).shape[1] <= length + 2
    context = model.config.max_position_embeddings
    never = {"eos_token_id": [], "do_sample": True}
    long = torch.full((1, context - 3), 300)
    assert model.generate(long, **never).shape[1] == context, "as far as the model reads"
    # Several sequences of a prompt with two pictures each see both.
    two = tokenized(processor, [said("user", RED, BLUE, "a snowman")])
    other = tokenized(processor, [said("user", BLUE, RED, "a snowman")])
    both = {
        name: torch.cat([two[name], other[name]]) for name in ("input_ids", "attention_mask")
    } | {"pixel_values": torch.cat([two["pixel_values"], other["pixel_values"]])}
    beams = {"max_new_tokens": 6, "num_beams": 2, "num_return_sequences": 2}
    together = model.generate(**both, **beams)
    assert together[:2].equal(model.generate(**two, **beams)) and len(together) == 4


def test_an_image_is_what_our_own_loop_draws(orthus, model, processor):
    prompts = ["a snowman", "a red fox"]
    inputs = processor(text=prompts, padding=True, return_tensors="pt")
    drawn = model.generate(**inputs, generation_mode="image", seed=5, num_inference_steps=2)
    images = processor.post_process_multimodal_output(drawn, generation_mode="image")
    singles = [
        orthus.generate(prompt, seed=5 + n, steps=2).images[0] for n, prompt in enumerate(prompts)
    ]
    assert [*map(pixel_hash, images)] == [*map(pixel_hash, singles)]
    own = inputs["input_ids"][0][inputs["attention_mask"][0] == 1].tolist()
    config = model.config
    picture = [config.boi_token_id, *[config.image_token_id] * config.patches, config.eoi_token_id]
    assert drawn.sequences[0][: len(own) + len(picture)].tolist() == own + picture
    # What was drawn is read again as it is.
    logits = model(drawn.sequences[:1, : len(own) + len(picture)], features=drawn.features[:1])
    assert logits.logits.isfinite().all()

    free = {"generation_mode": "image", "guidance_scale": 1.0, "num_inference_steps": 2}
    torch.manual_seed(3)
    first = model.generate(**inputs, **free, num_return_sequences=2)
    torch.manual_seed(3)
    again = model.generate(**inputs, **free, num_return_sequences=2)
    assert first.pixel_values.equal(again.pixel_values) and len(first.features) == 4
    assert not first.pixel_values[0].equal(first.pixel_values[1])


def test_a_pipeline_of_transformers_answers_as_our_own_loop(orthus, tiny_folder):
    """With chats, several side by side, and a placeholder in plain text."""
    answers = pipeline("image-text-to-text", model=str(tiny_folder), trust_remote_code=True)
    asked = {"max_new_tokens": 5, "return_full_text": False}
    chats = [[said("user", RED, "what is this?")], [said("user", BLUE, "a red fox, or a snowman?")]]
    told = answers(text=chats, batch_size=2, **asked)
    assert told == [answers(text=chat, **asked) for chat in chats]
    found = [each[0]["generated_text"] for each in told]
    ours = orthus.caption(RED, "what is this?", max_new_tokens=5).texts
    assert [found[0].strip().rstrip(UNFINISHED)] == ours
    whole = answers(text=chats[0], max_new_tokens=5)[0]["generated_text"]
    assert whole[-1] == {"role": "assistant", "content": found[0]}
    plain = answers(images=BLUE, text="<image>", max_new_tokens=3)[0]["generated_text"]
    assert plain.startswith("<image>") and len(plain) > len("<image>")


def test_text_and_images_follow_one_another(model, processor):
    inputs = tokenized(processor, [said("user", RED, "a snowman")])
    written = model.generate(
        **inputs,
        generation_mode="interleaved",
        negative_prompt_ids=processor(text="a red fox").input_ids[0],
        num_inference_steps=1,
        max_new_tokens=40,
        do_sample=True,
        temperature=2.0,
        seed=[4],
    )
    assert isinstance(written, GeneratedImages)
    slots = int((written.sequences == model.config.image_token_id).sum())
    drawn = 0 if written.features is None else written.features.shape[0]
    assert slots == (1 + drawn) * model.config.patches and len(written.image_rows) == drawn
    assert written.sequences.shape[1] > inputs["input_ids"].shape[1]
    text_alone = GeneratedImages(sequences=written.sequences)
    assert processor.post_process_multimodal_output(text_alone, generation_mode="image") == []


def test_each_prompt_is_drawn_from_its_own_picture(model, processor):
    chats = [[said("user", picture, "a snowman")] for picture in (RED, BLUE)]
    how = {"generation_mode": "image", "guidance_scale": 1.0, "num_inference_steps": 1, "seed": [3]}
    together = model.generate(**tokenized(processor, *chats), **how | {"seed": [3, 3]})
    for chat, features_PC in zip(chats, together.features, strict=True):
        (alone_PC,) = model.generate(**tokenized(processor, chat), **how).features
        torch.testing.assert_close(features_PC, alone_PC, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*together.features, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"generation_mode": "video"}, "'video'"),
        ({"generation_mode": "image", "num_beams": 2}, "num_beams"),
        ({"generation_mode": "image", "seed": [1, 2]}, "2 seeds for 1"),
        ({"generation_mode": "image", "seed": 1.7}, "seed must be a whole number"),
        ({"generation_mode": "image", "seed": [1.7]}, "seed must be a whole number"),
        ({"generation_mode": "image", "seed": -1}, "seed must be a whole number"),
        ({"generation_mode": "image", "seed": 2**70}, "seed must be a whole number"),
        ({"generation_mode": "image", "batch_size": -1}, "-1 sequences side by side"),
        ({"generation_mode": "image", "max_images": 0}, "0 images where"),
        (
            {"generation_mode": "image", "generation_config": GenerationConfig(max_new_tokens=3)},
            "generation_config says how text is chosen",
        ),
        (
            {"generation_mode": "image", "pixel_values": torch.zeros(2, 3, 16, 16)},
            "2 images more than the prompts have places for",
        ),
        ({"generation_mode": "image", "num_inference_steps": 0}, "steps cannot be 0"),
        ({"generation_mode": "image", "num_inference_steps": "4"}, "steps must be a whole number"),
        ({"generation_mode": "image", "num_return_sequences": 0}, "a whole number from 1, not 0"),
        ({"generation_mode": "image", "num_return_sequences": 2.0}, "from 1, not 2.0"),
        ({"generation_mode": "image", "guidance_scale": "3"}, "guidance_scale must be a number"),
        ({"generation_mode": "image", "max_images": "1"}, "max_images must be a whole number"),
        ({"generation_mode": "image", "batch_size": "1"}, "batch_size must be a whole number"),
    ],
)
def test_what_generate_does_not_know_is_refused(model, processor, asked, message):
    with pytest.raises((ArgumentError, PromptError), match=message):
        model.generate(**processor(text="a snowman", return_tensors="pt"), **asked)
    with pytest.raises(ArgumentError, match="text must be a string"):
        processor("a snowman", RED)
    with pytest.raises(ArgumentError, match="'audio'"):
        processor.post_process_multimodal_output([], generation_mode="audio")


def test_what_changes_nothing_may_be_said_where_a_picture_is_drawn(model, processor):
    inputs = processor(text="a snowman", return_tensors="pt")
    how = {"generation_mode": "image", "seed": 3, "num_inference_steps": 1}
    plain = model.generate(**inputs, **how)
    idle = {"use_cache": True, "return_dict_in_generate": True, "num_beams": 1, "streamer": None}
    none = {"num_return_sequences": None, "max_new_tokens": None, "top_k": None}
    assert model.generate(**inputs, **how, **idle, **none).features.equal(plain.features)
    with pytest.raises(ArgumentError, match="use_cache is not known"):
        model.generate(**inputs, **how, use_cache=False)
    free = how | {"generation_mode": "interleaved", "max_new_tokens": 3}
    some = model.generate(**inputs, **free, top_k=None, top_p=None, temperature=None)
    assert some.sequences.equal(model.generate(**inputs, **free).sequences)


def test_a_picture_is_drawn_in_the_models_precision_whatever_is_around(model, processor):
    inputs = processor(text=["a snowman"] * 3, return_tensors="pt")
    how = {"generation_mode": "image", "seed": 3, "num_inference_steps": 1}
    plain = model.generate(**inputs, **how)
    with torch.autocast("cpu", torch.bfloat16):
        around = model.generate(**inputs, **how)
        assert torch.is_autocast_enabled("cpu")
    assert around.features.equal(plain.features)


def test_padding_on_the_right_is_warned_of_before_text_is_written(model, processor, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("orthus_core.model.hugging_face.log.warning", said.append)
    for side, warnings in (("left", 0), ("right", 1)):
        texts = {"text": ["<image>a", "<image>a snowman"], "images": [RED, BLUE]}
        inputs = processor(**texts, padding=True, padding_side=side, return_tensors="pt")
        model.generate(**inputs, max_new_tokens=1)
        assert len(said) == warnings


def test_one_seed_may_be_a_number_of_numpy_or_torch():
    assert seeds_of_sequences(np.int64(3), 2) == [3, 4] == seeds_of_sequences(torch.tensor(3), 2)
    assert seeds_of_sequences(np.array([5, 7]), 2) == [5, 7] == seeds_of_sequences((5, 7), 2)


def test_guidance_without_a_tokenizer_is_refused(tiny_model, processor):
    inputs = processor(text="a snowman", return_tensors="pt")
    with pytest.raises(ArgumentError, match="negative_prompt_ids"):
        tiny_model.generate(**inputs, generation_mode="image")


# Training


class Rows(torch.utils.data.Dataset):
    """The rows of a batch, one by one, as a Trainer reads them."""

    def __init__(self, batch, labels_BS, processor) -> None:
        self.batch, self.labels_BS = batch, labels_BS
        self.pixels = [processor.image_processor(each)["pixel_values"] for each in (RED, BLUE)]

    def __len__(self) -> int:
        return 2  # each with one picture

    def __getitem__(self, number: int) -> dict:
        return {
            "input_ids": self.batch.ids_BS[number],
            "attention_mask": self.batch.attention_mask_BS[number],
            "labels": self.labels_BS[number],
            "pixel_values": torch.as_tensor(self.pixels[number][0])[None],
        }


@pytest.mark.gradients
def test_a_trainer_trains_it_and_saves_a_whole_folder(tiny_folder, rows, processor, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    settings = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=6,
        per_device_train_batch_size=2,
        learning_rate=3e-3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        lr_scheduler_type="constant",
    )
    trainer = Trainer(
        model,
        settings,
        train_dataset=Rows(*rows, processor),
        eval_dataset=Rows(*rows, processor),
        processing_class=processor,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 6 and losses[-1] < 0.8 * losses[0], losses
    assert trainer.evaluate()["eval_loss"] < losses[0]
    trainer.save_model(str(tmp_path / "trained"))
    drawn = Orthus.open(tmp_path / "trained", device="cpu").generate("a snowman", seed=1, steps=1)
    assert drawn.images[0].size == (16, 16)


@pytest.mark.gradients
def test_peft_trains_adapters(tiny_folder, rows):
    peft = pytest.importorskip("peft")
    batch, labels_BS = rows
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    inputs = {
        "input_ids": batch.ids_BS,
        "attention_mask": batch.attention_mask_BS,
        "features": batch.features_NC,
        "labels": labels_BS,
        "noise_seeds": torch.arange(len(batch.pictures)),
    }
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(4):
        loss = adapted(**inputs).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    frozen = {name for name, p in adapted.named_parameters() if not p.requires_grad}
    assert frozen and not any("lora" in name for name in frozen)
    prompt = {"input_ids": batch.ids_BS[:1, :3], "max_new_tokens": 2}
    assert adapted.generate(**prompt).shape[1] <= 5


@pytest.mark.parametrize(
    "how",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "modules_to_save": ["mlp_head"]},
    ],
)
def test_a_model_draws_with_the_adapters_of_peft_as_after_they_are_merged(tiny_folder, how):
    peft = pytest.importorskip("peft")
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder).eval()
    asked = {"generation_mode": "image", "guidance_scale": 1.0, "num_inference_steps": 2, "seed": 1}
    prompt = torch.tensor([[0, 300, 38]])
    plain = model.generate(prompt, **asked).features
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **how)).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if "lora_B" in name or ("modules_to_save" in name and values.ndim > 1):
                values += 0.05 * torch.randn(values.shape, generator=random)
    drawn = adapted.generate(prompt, **asked).features
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted.generate(prompt, **asked).features, plain)
    torch.testing.assert_close(adapted.generate(prompt, **asked).features, drawn)
    merged = adapted.merge_and_unload().generate(prompt, **asked).features
    torch.testing.assert_close(drawn, merged, rtol=1e-4, atol=1e-4)
    # Backbone and head both matter.
    assert not torch.allclose(drawn, plain, rtol=1e-2, atol=1e-2)


# The hub


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """A folder that is given what would be uploaded."""
    made = tmp_path / "hub"

    def create_repo(self, repo_id, **how):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **how):
        shutil.copytree(folder_path, made / repo_id)
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return made


@pytest.mark.parametrize("by", ["Orthus", "transformers"])
def test_an_upload_has_what_a_page_needs(by, hub, orthus, model, tmp_path):
    pushed = orthus if by == "Orthus" else model
    address = pushed.push_to_hub("me/tiny-orthus", license="apache-2.0")
    assert address == "https://huggingface.co/me/tiny-orthus/commit/1"
    folder = hub / "me" / "tiny-orthus"
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "orthus-kit"
    assert card.data.pipeline_tag == "any-to-any" and "text-to-image" in card.data.tags
    assert 'Orthus.open("me/tiny-orthus")' in card.text
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "orthus_kit.py", "generation_config.json"} <= names
    assert {"chat_template.jinja", "processor_config.json", "tokenizer.json"} <= names
    assert AutoTokenizer.from_pretrained(folder).chat_template
    drawn = Orthus.open(folder, device="cpu").generate("a snowman", seed=2, steps=1)
    assert pixel_hash(drawn.images[0]) == pixel_hash(
        orthus.generate("a snowman", seed=2, steps=1).images[0]
    )


def test_a_hub_that_refuses_says_what_to_do(monkeypatch, orthus):
    def refuses(self, repo_id, **how):
        raise OSError("403 Forbidden")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuses)
    with pytest.raises(HubError, match="403 Forbidden") as error:
        orthus.push_to_hub("someone/else")
    assert "hf auth login" in error.value.hint
