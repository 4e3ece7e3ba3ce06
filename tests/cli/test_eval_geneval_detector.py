"""GenEval's pictures are looked at by a tiny random Mask2Former and CLIP, and judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from orthus_core.evaluation.geneval import COLORS
from orthus_core.evaluation.geneval_detector import (
    DEVIATIONS,
    THINGS,
    ColorReader,
    FoundThing,
    ThingDetector,
    mask2former_without_loss,
)
from tests.core.test_scorers_folders import tiny_clip

ONE = [{"class": "dog", "count": 1}]
PROMPTS: list[dict[str, Any]] = [
    {"tag": "single_object", "include": ONE, "prompt": "a dog"},
    {"tag": "colors", "include": [{**ONE[0], "color": "red"}], "prompt": "a red dog"},
    {"tag": "counting", "include": [{"class": "tv remote", "count": 1}], "prompt": "a tv remote"},
]


def tiny_mask2former(folder: Path) -> Path:
    """Four random masks, all of them dogs: with a certainty of about a half."""
    from transformers import Mask2FormerConfig, SwinConfig
    from transformers.models.mask2former.image_processing_pil_mask2former import (
        Mask2FormerImageProcessorPil,
    )

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim")
    config = Mask2FormerConfig(
        backbone_config=backbone,
        **dict.fromkeys((*widths, "dim_feedforward"), 32),
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=4,
        num_labels=len(THINGS),
    )
    torch.manual_seed(0)
    model = mask2former_without_loss()(config)
    with torch.no_grad():
        model.class_predictor.weight.zero_()
        model.class_predictor.bias.copy_(9.0 * F.one_hot(torch.tensor(16), len(THINGS) + 1))
    model.save_pretrained(folder)
    processor = Mask2FormerImageProcessorPil(size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mask2former(tmp_path_factory.mktemp("detector") / "m2f")


def draw(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.linear_gradient("L").rotate(shade).resize((60, 40))
    Image.merge("RGB", (image, image, image.rotate(180))).save(path)


def test_pictures_are_looked_at_judged_and_kept(orthus, detector, tmp_path):
    drawn, out = tmp_path / "drawn", tmp_path / "report"
    clip = tiny_clip(tmp_path / "clip")
    for number, prompt in enumerate(PROMPTS):
        for picture in (0, 1):
            draw(drawn / f"{number:05d}" / "samples" / f"{picture:04d}.png", 40 * picture)
        (drawn / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps(prompt))
    (drawn / "00000" / "grid.png").write_bytes(b"")
    data = tmp_path / "evaluation_metadata.jsonl"
    data.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    words = ["eval", "score", "geneval", "--predictions", drawn, "--data", data]
    tools = ["--detector", "mask2former", "--weights", detector, "--clip", clip]
    done = orthus(*words, *tools, "--device", "cpu", "-o", out, "--format", "json")
    assert done.exit_code == 0, done.stderr
    for deviation in DEVIATIONS["mask2former"]:
        assert deviation in " ".join(done.stderr.split())
    result = json.loads((out / "result.json").read_text())
    assert result["settings"]["deviations"] == [*DEVIATIONS["mask2former"]]
    assert result["settings"]["detector"] == "mask2former"
    # Some dogs are certain by more than 0.3, and no tv remote by 0.9.
    assert result["n"] == 6 and result["per_category"]["single_object"] == 1.0
    assert result["per_category"]["counting"] == 0.0

    lines = [json.loads(each) for each in (out / "detections.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines][:2] == [
        "00000/samples/0000.png",
        "00000/samples/0001.png",
    ]
    named = [each.get("color") for each in lines[2]["detections"]]
    assert named and {*named} <= {*COLORS} and "color" not in lines[0]["detections"][0]
    (found,) = ThingDetector("mask2former", detector).detect(
        [Image.open(drawn / "00000/samples/0000.png")]
    )
    assert lines[0]["detections"] == [
        {"class": "dog", "box": [*each.box], "score": each.score} for each in found
    ]
    for each in found:
        mask_HW = each.mask_HW
        assert mask_HW is not None and mask_HW.shape == (40, 60)
        x0, y0, x1, y1 = (int(edge) for edge in each.box)
        assert mask_HW[y0:y1, x0:x1].sum() == mask_HW.sum() > 0
        assert mask_HW[y0, :].any() and mask_HW[y1 - 1, :].any()
        assert mask_HW[:, x0].any() and mask_HW[:, x1 - 1].any()

    # What was found is scored again without the networks.
    again = orthus(*words[:4], out / "detections.jsonl", *words[5:], "--format", "json")
    assert json.loads(again.stdout)["metrics"] == result["metrics"], again.stderr


def test_the_networks_of_geneval_are_named_where_they_are_missing(orthus, detector, tmp_path):
    words = ["eval", "score", "geneval", "--predictions", tmp_path]
    for more, code, message in (
        (["--detector", "yolo"], 1, "mask2former, boxes"),
        (["--detector", "mask2former"], 1, "facebook/mask2former-swin-small-coco-instance"),
        (["--detector", "mask2former", "--weights", detector], 1, "openai/clip-vit-large-patch14"),
        (["--weights", detector], 2, "is for a --detector"),
    ):
        done = orthus(*words, *more)
        assert done.exit_code == code and message in done.stderr, done.stderr
    other = orthus("eval", "score", "pope", *words[3:], "--detector", "mask2former")
    assert other.exit_code == 2 and "pope has no detector" in other.stderr
    clip = tiny_clip(tmp_path / "clip")
    tools = ["--detector", "mask2former", "--clip", clip, "--weights"]
    empty = orthus(*words, *tools, detector)
    assert empty.exit_code == 1 and "no pictures of GenEval" in empty.stderr
    draw(tmp_path / "00000" / "samples" / "0000.png", 0)
    unknown = orthus(*words, *tools, detector)
    assert unknown.exit_code == 1 and "prompt of a picture is not known" in unknown.stderr
    damaged = {**PROMPTS[0], "include": [{"color": "red"}]}
    (tmp_path / "00000" / "metadata.jsonl").write_text(json.dumps(damaged))
    other = orthus(*words, *tools, detector)
    assert other.exit_code == 1 and "record of a prompt is of another layout" in other.stderr
    (tmp_path / "00000" / "metadata.jsonl").write_text(json.dumps(PROMPTS[0]))
    lacking = orthus(*words, *tools, tmp_path)
    assert lacking.exit_code == 1 and "lacks config.json" in lacking.stderr
    wrong = orthus(*words, *tools[:1], "boxes", *tools[2:], detector)
    assert wrong.exit_code == 1 and "no detector of the kind boxes" in wrong.stderr


class MeanColors:
    """In place of CLIP: a picture is its mean colour, and a text the colour that it names."""

    def images(self, images: list[Image.Image]) -> torch.Tensor:
        means = [each.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) for each in images]
        return torch.tensor(means, dtype=torch.float32)

    def captions(self, texts: list[str]) -> torch.Tensor:
        shades = {"red": (1.0, 0, 0), "blue": (0, 0, 1.0), "purple": (1.0, 0, 1.0)}
        named = [next((c for c in COLORS if f" {c}" in text), "") for text in texts]
        return torch.tensor([shades.get(name, (0, 0.01, 0)) for name in named])


def test_a_colour_is_that_of_the_mask_within_its_box():
    picture = Image.new("RGB", (40, 20), "blue")
    picture.paste("red", (0, 0, 20, 20))
    left_HW = torch.zeros(20, 40, dtype=torch.bool)
    left_HW[:, :20] = True
    reader = ColorReader(MeanColors())  # type: ignore[arg-type]
    whole = (0.0, 0.0, 40.0, 20.0)
    things = [
        FoundThing("dog", whole, 0.9, left_HW),
        FoundThing("dog", whole, 0.9, ~left_HW),
        FoundThing("cat", (20.4, 0.0, 39.6, 20.0), 0.9),
        FoundThing("cat", whole, 0.9),
    ]
    assert reader.colors(picture, things) == ["red", "blue", "blue", "purple"]
    assert reader.colors(picture, []) == []
