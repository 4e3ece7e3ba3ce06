"""The model class that lmms-eval opens and asks (its `lmms` interface, 0.7): `generate_until` only.

A request holds the text, how it is decoded, a function that gives the pictures of a record, and the
record's place. Answers are the likeliest words. Pictures stand in the places of `<image>` where the
text has as many of them, and come before the text otherwise, as LLaVA's programs have it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from PIL import Image

from orthus_core.api.asked_models import AnsweringModel, BatchSize
from orthus_core.api.captions import SquarePicture
from orthus_core.api.loaded import LoadedModel, load_model
from orthus_core.data.pixels import square
from orthus_core.errors import ArgumentError, DataError

MARK = "<image>"
# Questions whose pictures are open at once, as for `orthus eval predict`.
TOGETHER = 64
LONGEST_ANSWER = 128


class _Asked(NamedTuple):
    """A request, as an `AnsweringModel` takes it."""

    key: str
    parts: tuple[Any, ...]
    longest: int
    until: tuple[str, ...]
    seed: int = 0


class LmmsEvalModel(lmms):
    """Orthus for lmms-eval.

    Args:
        pretrained: Model folder, hub id or alias, as for `orthus caption -m`.
        batch_size: Questions answered at once; "auto" means as many as fit into memory.
        device: auto, cpu, cuda or mps; processes of a launcher each take their own GPU.
        dtype: Precision of weights and arithmetic.
        lora: Adapters, separated by semicolons.
        quantize: Bits to hold the backbone's weights in, 4 or 8.
        max_new_tokens: Most tokens of an answer, in place of what the task asks for.
        max_batch_size: Passed by lmms-eval; it changes nothing.

    Raises:
        ArgumentError: For an argument that is not known.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "mini",
        batch_size: int | str = "auto",
        device: str | None = None,
        dtype: str = "auto",
        lora: str = "",
        quantize: int | None = None,
        max_new_tokens: int | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ArgumentError(
                f"there is no argument {min(unknown)!r}",
                hint="--model_args: pretrained, dtype, lora, quantize, max_new_tokens",
            )
        self._rank = int(os.environ.get("RANK", 0))
        self._world_size = int(os.environ.get("WORLD_SIZE", 1))
        where = device or "auto"
        if self._world_size > 1 and where in ("auto", "cuda"):
            where = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.loaded: LoadedModel = load_model(
            pretrained,
            device=where,
            dtype=dtype,
            quantize=quantize,  # type: ignore[arg-type]
            lora=[each for each in lora.split(";") if each],
        )
        self._batch_size: BatchSize = (
            "auto" if str(batch_size).startswith("auto") else int(batch_size)
        )
        self._longest = max_new_tokens

    @property
    def device(self) -> Any:
        return self.loaded.model.device

    @property
    def batch_size(self) -> BatchSize:
        return self._batch_size

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order of the requests.

        What has several pictures and does not fit the model's context has an empty answer.

        Raises:
            DataError: When a record shows something else than pictures, or one cannot be read.
            PromptError: When a question about one picture does not fit.
        """
        answers = [""] * len(requests)
        for first in range(0, len(requests), TOGETHER):
            part = [self._asked(each) for each in requests[first : first + TOGETHER]]
            for longest in dict.fromkeys(each.longest for each in part):
                numbers = [at for at, each in enumerate(part) if each.longest == longest]
                asks = [part[at] for at in numbers]
                model = AnsweringModel(self.loaded, longest, self._batch_size)
                for row, text in model.run(asks, model.load(asks)):
                    at = numbers[row]
                    answers[first + at] = _before(part[at].until, text or "")
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        """Not offered."""
        raise NotImplementedError("orthus answers in words: take a task of generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        """Not offered."""
        raise NotImplementedError("orthus answers one question at a time")

    def _asked(self, request: Any) -> _Asked:
        text, decoding, pictures_of, record, task, split = request.args[:6]
        pictures = pictures_of(self.task_dict[task][split][record]) if pictures_of else []
        size = self.loaded.model.model.vqmodel.config.resolution
        held = [_square_picture(each, size, f"{task}, record {record}") for each in pictures or ()]
        longest = self._longest or int(decoding.get("max_new_tokens") or LONGEST_ANSWER)
        return _Asked(f"{task}/{split}/{record}", _parts(text, held), longest, _until(decoding))


def _square_picture(image: Any, size: int, where: str) -> SquarePicture:
    if not isinstance(image, Image.Image):
        raise DataError(
            f"shows {type(image).__name__}, which is no picture",
            where=where,
            hint="orthus reads pictures: take a task of pictures, and not of videos or sounds",
        )
    pixels_HW3 = square(image.convert("RGB"), size)
    return SquarePicture(hashlib.sha256(pixels_HW3.tobytes()).hexdigest(), pixels_HW3)


def _parts(text: str, pictures: Sequence[SquarePicture]) -> tuple[Any, ...]:
    """Texts and pictures in their order; without a mark for each picture, these come first."""
    pieces = text.split(MARK)
    if len(pieces) - 1 != len(pictures):
        return (*pictures, text)
    parts: list[Any] = []
    for at, piece in enumerate(pieces):
        parts += [piece] if piece.strip() else []
        parts += pictures[at : at + 1]
    return tuple(parts)


def _until(decoding: Mapping[str, Any]) -> tuple[str, ...]:
    found = decoding.get("until") or ()
    return (found,) if isinstance(found, str) else tuple(each for each in found if each)


def _before(ends: Sequence[str], text: str) -> str:
    """The text up to the first of these ends."""
    return text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]
