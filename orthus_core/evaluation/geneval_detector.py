"""GenEval's detector and its reader of colours, through transformers: nothing is downloaded.

Officially the detector is mmdet's Mask2Former, and CLIP ViT-L/14 of OpenCLIP tells the colours
(djghosh13/geneval, evaluate_images.py, af4902f). What differs here is in DEVIATIONS.

Legend: M pictures or crops, K classes, T templates, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from orthus_core.errors import OrthusError
from orthus_core.evaluation.clip import ClipEncoder
from orthus_core.evaluation.geneval import COLORS, THRESHOLD

DETECTORS = {
    "mask2former": "facebook/mask2former-swin-small-coco-instance",
    "boxes": "a detector of COCO's things without masks, such as PekingU/rtdetr_v2_r50vd",
}
DEVIATIONS = {
    "mask2former": (
        "weights are those of Mask2Former's authors, and not mmdet's "
        "(mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco)",
        "masks are made at 384 x 384 pixels and resized to the picture by its nearest pixels, so "
        "that edges of boxes move by about a pixel of 512",
        "how far the scores are from the official detector's has not been measured",
    ),
    "boxes": (
        "not comparable with published GenEval: another detector, without masks, so that colours "
        "are read with the background of a box, and the thresholds are not made for it",
    ),
}
# GenEval's names of COCO's 80 things, in COCO's order.
_THINGS = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange
broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop
computer_mouse tv_remote computer_keyboard cell_phone microwave oven toaster sink refrigerator book
clock vase scissors teddy_bear hair_drier toothbrush
"""
THINGS = tuple(name.replace("_", " ") for name in _THINGS.split())
BACKGROUND = "#999"
TEMPLATES = ("a photo of a {color} {thing}", "a photo of a {color}-colored {thing}")
TEMPLATES += ("a photo of a {color} object",)
BATCH = 16


class FoundThing(NamedTuple):
    """A detection.

    Attributes:
        name: GenEval's name of its class.
        box: x0, y0, x1, y1 in pixels.
        score: Certainty.
        mask_HW: Its pixels, of the whole picture; None for a detector without masks.
    """

    name: str
    box: tuple[float, float, float, float]
    score: float
    mask_HW: Tensor | None = None


class ThingDetector:
    """A detector of COCO's 80 things.

    Args:
        kind: One of DETECTORS.
        folder: Its folder, as transformers saves it.
        device: Where it runs.

    Raises:
        OrthusError: When files are missing, or are of another kind of model.
    """

    def __init__(self, kind: str, folder: Path, device: str = "cpu") -> None:
        hint = f"download {DETECTORS[kind]} (hub), and give its folder with --weights"
        needed = ("config.json", "preprocessor_config.json", "model.safetensors")
        lacking = [name for name in needed if not (folder / name).is_file()]
        if lacking:
            raise OrthusError(
                f"the detector lacks {', '.join(lacking)}", where=str(folder), hint=hint
            )
        try:
            self.model, self.prepare = _opened(kind, folder)
        except Exception as error:  # transformers raises anything on files of another model
            raise OrthusError(
                f"no detector of the kind {kind}: {error}", where=str(folder), hint=hint
            ) from error
        if self.model.config.num_labels != len(THINGS):
            raise OrthusError(
                f"a detector of {self.model.config.num_labels} things, and not of COCO's 80",
                where=str(folder),
                hint=hint,
            )
        self.kind, self.name, self.device = kind, folder.name, device
        self.model.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def detect(self, pictures: Sequence[Image.Image]) -> list[list[FoundThing]]:
        """The things in each picture that are certain enough for GenEval."""
        found = []
        # Pictures of different shapes would be padded, which no official program does.
        for picture in pictures:
            inputs = self.prepare(images=[picture], return_tensors="pt").to(self.device)
            outputs = self.model(**inputs)
            shape = (picture.height, picture.width)
            found.append(
                self._with_masks(outputs, shape)
                if self.kind == "mask2former"
                else self._boxes(outputs, shape)
            )
        return found

    def _with_masks(self, outputs: Any, shape: tuple[int, int]) -> list[FoundThing]:
        (result,) = self.prepare.post_process_instance_segmentation(
            outputs, threshold=THRESHOLD, target_sizes=[shape], return_binary_maps=True
        )
        return [
            FoundThing(THINGS[each["label_id"]], _box_of(mask_HW), each["score"], mask_HW)
            for each, mask_HW in zip(
                result["segments_info"], result["segmentation"].bool().cpu(), strict=False
            )
        ]

    def _boxes(self, outputs: Any, shape: tuple[int, int]) -> list[FoundThing]:
        (result,) = self.prepare.post_process_object_detection(
            outputs, threshold=THRESHOLD, target_sizes=[shape]
        )
        columns = (result["labels"].tolist(), result["boxes"].tolist(), result["scores"].tolist())
        return [
            FoundThing(THINGS[label], tuple(box), score)
            for label, box, score in zip(*columns, strict=True)
        ]


class ColorReader:
    """CLIP's choice of a colour for a thing, by ten colours in three sentences each.

    Args:
        encoder: CLIP, officially ViT-L/14.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, Tensor] = {}

    def colors(self, picture: Image.Image, things: Sequence[FoundThing]) -> list[str]:
        """The colour of each thing: of its box, with grey around its mask."""
        chosen = []
        for first in range(0, len(things), BATCH):
            part = things[first : first + BATCH]
            crops_MD = F.normalize(self.encoder.images([_crop(picture, each) for each in part]))
            for crop_D, each in zip(crops_MD, part, strict=True):
                chosen.append(COLORS[int((self._colors_of(each.name) @ crop_D).argmax())])
        return chosen

    def _colors_of(self, thing: str) -> Tensor:
        """The direction of each colour of a thing: [K, D]."""
        if thing not in self._known:
            texts = [
                template.format(color=color, thing=thing)
                for color in COLORS
                for template in TEMPLATES
            ]
            each_KTD = F.normalize(self.encoder.captions(texts)).view(
                len(COLORS), len(TEMPLATES), -1
            )
            self._known[thing] = F.normalize(each_KTD.mean(1))
        return self._known[thing]


def _opened(kind: str, folder: Path) -> tuple[Any, Any]:
    if kind == "mask2former":
        from transformers.models.mask2former.image_processing_pil_mask2former import (
            Mask2FormerImageProcessorPil as Processor,
        )

        Model = mask2former_without_loss()
    else:
        from transformers import AutoImageProcessor as Processor
        from transformers import AutoModelForObjectDetection as Model
    model = Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return model, Processor.from_pretrained(folder, local_files_only=True)


def mask2former_without_loss() -> Any:
    """The class of Mask2Former as it is asked: its loss, which it always makes, needs SciPy."""
    from torch import nn
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerModel
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPreTrainedModel

    class Mask2FormerWithoutLoss(Mask2FormerForUniversalSegmentation):
        def __init__(self, config: Any) -> None:
            Mask2FormerPreTrainedModel.__init__(self, config)
            self.model = Mask2FormerModel(config)
            self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
            self.post_init()

    return Mask2FormerWithoutLoss


def _box_of(mask_HW: Tensor) -> tuple[float, float, float, float]:
    """The smallest box around a mask; its far edges lie behind the last pixels."""
    rows, columns = mask_HW.any(1).nonzero(), mask_HW.any(0).nonzero()
    return (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1]) + 1,
        float(rows[-1]) + 1,
    )


def _crop(picture: Image.Image, thing: FoundThing) -> Image.Image:
    if thing.mask_HW is not None:
        blank = Image.new("RGB", picture.size, BACKGROUND)
        picture = Image.composite(picture, blank, Image.fromarray(thing.mask_HW.numpy()))
    x0, y0, x1, y1 = (round(each) for each in thing.box)
    return picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
