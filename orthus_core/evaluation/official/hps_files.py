"""HPSv2 on disk: a file of prompts and a folder of pictures for each style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from orthus_core.errors import DataError, OrthusError
from orthus_core.evaluation import hps
from orthus_core.evaluation.clip import ClipEncoder, cosines, open_clip_folder
from orthus_core.evaluation.intervals import bootstrap_counts
from orthus_core.evaluation.official.read_files import read_json
from orthus_core.evaluation.official.task import AskedItem, OfficialScores
from orthus_core.evaluation.picture_folders import NamedPictures
from orthus_core.events import Progress

PROMPTS = 'anime.json, concept-art.json, paintings.json, photo.json: ["a prompt", ...]'
WEIGHTS = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
ARCHITECTURE = "ViT-H-14"
BATCH = 16


class PictureAndTextEncoder(Protocol):
    """What makes features of pictures and of texts, [M, D]."""

    def pictures(self, paths: Sequence[Path]) -> Tensor: ...

    def captions(self, texts: Sequence[str]) -> Tensor: ...


class OpenClipEncoder:
    """OpenCLIP's ViT-H-14 with the weights of HPSv2, by the optional package open-clip-torch."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        import torch

        try:
            import open_clip  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise OrthusError(
                f"{weights.name} is a file of OpenCLIP, which is not installed",
                hint="pip install open-clip-torch (it needs torchvision), or give a folder with "
                "HPSv2 as a CLIP model of transformers",
            ) from error
        model, _, prepare = open_clip.create_model_and_transforms(ARCHITECTURE)
        state = torch.load(weights, "cpu", weights_only=True)
        model.load_state_dict(state.get("state_dict", state))
        self.model = model.eval().requires_grad_(False).to(device)
        self.prepare, self.device = prepare, device
        self.tokenize = open_clip.get_tokenizer(ARCHITECTURE)

    def pictures(self, paths: Sequence[Path]) -> Tensor:
        import torch

        from orthus_core.data.pixels import open_image

        pixels = torch.stack([self.prepare(open_image(path)) for path in paths])
        return self.model.encode_image(pixels.to(self.device)).cpu()

    def captions(self, texts: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenize([*texts]).to(self.device)).cpu()


class HpsPicture(NamedTuple):
    """A prompt of a style, and its picture."""

    key: str
    style: str
    prompt: str
    path: Path


def hps_encoder(weights: Path | None, version: str, device: str = "cpu") -> PictureAndTextEncoder:
    """Opens HPSv2.

    Args:
        weights: The official file of weights, or a folder with the model as transformers saves it.
        version: One of `hps.VERSIONS`.
        device: Where it runs.

    Raises:
        OrthusError: When the weights are missing; the message names the file.
    """
    name = WEIGHTS[version]
    hint = f"download {name} (hub: xswu/HPSv2) and give its path with --weights"
    if weights is None:
        raise OrthusError(f"the weights of HPS {version} are needed", hint=hint)
    if weights.is_dir():
        return open_clip_folder(weights, f"HPS {version} as a CLIP model of transformers", device)
    if not weights.is_file():
        raise OrthusError("there is no such file", where=str(weights), hint=hint)
    return OpenClipEncoder(weights, device)


def prompt_files(data: Path) -> list[Path]:
    """The files of prompts. Raises: DataError when there are none."""
    files = [path for style in hps.STYLES if (path := data / f"{style}.json").is_file()]
    if not files:
        raise DataError("no prompts of HPSv2", where=str(data), hint=f"expected: {PROMPTS}")
    return files


def items(data: Path, variant: str = "v2.0") -> list[AskedItem]:
    """The prompts of all styles; a key is `STYLE/00000`, as its picture is named.

    Raises:
        DataError: When there are none, or they are of another layout.
    """
    found = []
    for path in prompt_files(data):
        for number, prompt in enumerate(read_json(path, list, PROMPTS)):
            if not isinstance(prompt, str):
                raise DataError(f"prompt {number} is no text", where=str(path), hint=PROMPTS)
            key = f"{path.stem}/{number:05d}"
            found.append(AskedItem(key, prompt, None, None, path.stem))
    return found


def read_pictures(pictures: Path, data: Path) -> tuple[list[Path], list[HpsPicture]]:
    """The files of prompts, and each prompt with its picture.

    Raises:
        DataError: When there are no prompts, or a picture is missing.
    """
    named = NamedPictures(pictures)
    # A missing picture would move all that follow to other groups of 80.
    return prompt_files(data), [
        HpsPicture(item.key, item.part, item.prompt, named.find(item.key)) for item in items(data)
    ]


def score_hps(
    pictures: Path, data: Path, encoder: PictureAndTextEncoder
) -> Iterator[Progress | OfficialScores]:
    """Scores a folder of pictures; the scores come last.

    Raises:
        DataError: When prompts or pictures are missing.
    """
    files, asked = read_pictures(pictures, data)
    scores: list[float] = []
    for first in range(0, len(asked), BATCH):
        part = asked[first : first + BATCH]
        texts = encoder.captions([each.prompt for each in part])
        scores += cosines(encoder.pictures([each.path for each in part]), texts)
        yield Progress("preference", len(scores), len(asked), "pictures")
    styles: dict[str, list[float]] = {}
    for each, value in zip(asked, scores, strict=True):
        styles.setdefault(each.style, []).append(value)
    found = hps.aggregate(styles)
    strata = {style: dict.fromkeys(enumerate(each), 1) for style, each in styles.items()}
    intervals = {"overall": bootstrap_counts(strata, _mean_of_pictures)}
    for style, each in strata.items():
        intervals[f"{style}.accuracy"] = bootstrap_counts({style: each}, _mean_of_pictures)
    absent = [style for style in hps.STYLES if style not in styles]
    notes = ["pictures that are no squares are cut around the middle"]
    if absent:
        notes.append(f"no prompts of {', '.join(absent)}: the mean is of the others")
    yield OfficialScores(
        n=len(asked),
        n_missing=0,
        n_unparsed=0,
        metrics={"overall": found["overall"]},
        per_category={**found["per_style"], "std": found["std_per_style"]},
        intervals=intervals,
        samples=[
            {
                "id": each.key,
                "prompt": each.prompt,
                "style": each.style,
                "picture": each.path.relative_to(pictures).as_posix(),
                "score": round(value, 8),
            }
            for each, value in zip(asked, scores, strict=True)
        ],
        files=files,
        notes=notes,
    )


def clip_name(encoder: Any) -> str:
    """The name of the encoder, for result.json."""
    return encoder.name if isinstance(encoder, ClipEncoder) else f"OpenCLIP {ARCHITECTURE}"


def _mean_of_pictures(drawn: Any) -> Any:
    """100 times the mean over all pictures, of resampled counts of (number, cosine) by style."""
    total = sum(value * n for counts in drawn.values() for (_, value), n in counts.items())
    return 100 * total / sum(n for counts in drawn.values() for n in counts.values())
