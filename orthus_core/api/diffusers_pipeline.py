"""A pipeline of diffusers that draws with an Orthus.

    pipe = OrthusPipeline.from_pretrained("mini")
    pipe("a snowman", num_inference_steps=25, generator=torch.manual_seed(7)).images[0]

Names and shapes are those of diffusers' text-to-image pipelines; the pictures are those of
`Orthus.generate` for the same seeds.

Legend: N pictures, H height, W width, P patches of a picture, C feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from torch import Tensor

from orthus_core.api.arguments import plain, recipe_of, texts_of
from orthus_core.api.images import prepare_generate
from orthus_core.api.pipeline import Orthus
from orthus_core.api.requests import run
from orthus_core.checkpoint.chat_processor import OrthusProcessor
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.data.known_words import VOCABULARY, WORDS, KnownWords
from orthus_core.data.pixels import to_image
from orthus_core.errors import ArgumentError, CheckpointError
from orthus_core.events import ImageDone, PatchDone
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe import GenerateRecipe
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.seeds import GENERATOR_SEEDS

Generators = torch.Generator | Sequence[torch.Generator] | None
# diffusers' names of the recipe's keys.
NAMES = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
# Arguments of `from_pretrained` that hold for every model folder, or for none.
WITHOUT_EFFECT = ("use_safetensors", "low_cpu_mem_usage")
StepEnd = Callable[["OrthusPipeline", int, int, dict[str, Any]], dict[str, Any] | None]


class OrthusPipeline(DiffusionPipeline):
    """Text to images.

    Args:
        model: An Orthus with a pixel decoder.
        processor: Its tokenizer and picture processor.
    """

    model_cpu_offload_seq = "model"
    _callback_tensor_inputs = ("features",)
    model: OrthusForConditionalGeneration
    processor: OrthusProcessor

    def __init__(self, model: OrthusForConditionalGeneration, processor: OrthusProcessor) -> None:
        super().__init__()
        self.register_modules(model=model, processor=processor)
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked to stop."""
        return self._interrupt

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> OrthusPipeline:
        """Opens a folder that `save_pretrained` wrote, or any model folder, alias or hub id.

        Args:
            pretrained_model_name_or_path: What to open.
            kwargs: For a model folder `torch_dtype`, `device` and `device_map`; otherwise
                diffusers' own.

        Raises:
            CheckpointError: When the folder holds no Orthus, or one without a tokenizer.
        """
        folder = resolve(pretrained_model_name_or_path)
        if (folder / cls.config_name).is_file():
            return super().from_pretrained(str(folder), **kwargs)
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        how = {"device": kwargs.pop("device", "cpu"), "device_map": kwargs.pop("device_map", None)}
        unknown = [
            name
            for name, value in kwargs.items()
            if value is not None and value is not False and name not in WITHOUT_EFFECT
        ]
        if unknown:
            raise ArgumentError(
                f"{', '.join(unknown)} is not known where a model folder is opened",
                where="OrthusPipeline.from_pretrained",
                hint="save_pretrained writes a folder of diffusers, which takes its own arguments",
            )
        opened = open_model(folder, dtype=dtype, **how)
        if not isinstance(opened.model, OrthusForConditionalGeneration) or not opened.processor:
            raise CheckpointError(
                "a pipeline draws with an Orthus that has a tokenizer", where=str(folder)
            )
        return cls(opened.model, OrthusProcessor.from_pretrained(folder))

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As diffusers', and the lists of the model's words, by which the opened pipeline reads
        emoji.

        Args:
            save_directory: Folder to write; the lists are beside the model's weights, in `model`.
            args, kwargs: diffusers' own.
        """
        source, folder = self.model.name_or_path, Path(save_directory) / "model"
        lists = [Path(source, name) for name in (VOCABULARY, WORDS)] if source else []
        found = {file.name: file.read_bytes() for file in lists if file.is_file()}
        # First, because diffusers uploads the folder where that is asked for.
        folder.mkdir(parents=True, exist_ok=True)
        for name in (VOCABULARY, WORDS):
            if name in found:
                (folder / name).write_bytes(found[name])
            else:  # of an earlier model that this one replaces
                (folder / name).unlink(missing_ok=True)
        super().save_pretrained(str(save_directory), *args, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: Sequence[int] | None = None,
        guidance_schedule: str | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("features",),
        height: int | None = None,
        width: int | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draws pictures.

        Args:
            prompt: One prompt, or several.
            num_inference_steps: Denoising steps of a patch; the model's own by default.
            guidance_scale: Classifier-free guidance; the model's own by default. 1 and less is
                none, as in diffusers.
            guidance_interval: Lowest and highest timestep at which guidance acts; all by default.
            guidance_schedule: "constant", or "linear" for guidance that rises from patch to patch.
            negative_prompt: What guidance leads away from, for all prompts, or a list with one for
                each.
            num_images_per_prompt: Pictures of each prompt.
            generator: Draws a seed for each picture, or a list with one for each; None takes
                torch's global generator.
            output_type: "pil", "np" [N, H, W, 3] or "pt" [N, 3, H, W], both from 0 to 1, or
                "latent": the features [N, P, C], which `model.decode_images` decodes.
            return_dict: Whether to return an `ImagePipelineOutput`, or a tuple.
            callback_on_step_end: Called after each patch of each picture with the pipeline, the
                number of the patch, the number of the picture, and `features`, the patch's [C].
                When it sets `pipe._interrupt`, the pictures are returned as they are, what is
                missing grey. What it returns changes nothing.
            callback_on_step_end_tensor_inputs: What the callback is given; `features` alone.
            height, width: The model's own, or nothing.

        Raises:
            ArgumentError: For a size that is not the model's, and a value of the wrong kind.
            PromptError: When a prompt is empty or too long.
        """
        side = self.model.config.vq_config.resolution
        _check(output_type, side, {"height": height, "width": width})
        _check_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        orthus = Orthus(self.model, self.processor.tokenizer)
        folder = self.model.name_or_path
        if folder and (known := KnownWords.of(Path(folder))):  # emoji mean the names it lists
            orthus.builder = PromptBuilder(self.model, self.processor.tokenizer, known.read)
        texts = texts_of("prompt", prompt)
        if not texts:
            raise ArgumentError("there is no prompt", where="the argument prompt")
        number = plain(num_images_per_prompt)
        if type(number) is not int or number < 1:
            raise ArgumentError(
                f"num_images_per_prompt must be a whole number from 1, not {number!r:.80}",
                where="the argument num_images_per_prompt",
            )
        count = len(texts) * number
        guidance_scale = plain(guidance_scale)
        if (
            isinstance(guidance_scale, (int, float))
            and type(guidance_scale) is not bool
            and guidance_scale < 1
        ):
            guidance_scale = 1.0  # diffusers guides above 1 alone
        asked = {
            "steps": num_inference_steps,
            "guidance": guidance_scale,
            "guidance_interval": guidance_interval,
            "guidance_schedule": guidance_schedule,
        }
        requests = []
        for group, against in _by_negative(texts, negative_prompt):
            recipe = _recipe({**asked, "negative_prompt": against})
            one_seed = [0] * number  # replaced below
            requests.append(prepare_generate(orthus._loaded, recipe, group, one_seed))
        # Requests differ in what they lead away from, which their prompts hold.
        prompts = [prompt for each in requests for prompt in each.prompts]
        seeds = _seeds(generator, count)
        seeded = [p._replace(seed=s) for p, s in zip(prompts, seeds, strict=True)]

        # 1. Draw, patch by patch.
        config = self.model.config
        features = torch.zeros(count, config.patches, config.feature_channels)
        pixels: dict[int, Tensor] = {}
        self._interrupt = False
        total = count * config.patches
        with self.progress_bar(total=total) as bar:  # type: ignore[call-arg]
            events: Any = run(replace(requests[0], prompts=tuple(seeded)))
            for event in events:
                if isinstance(event, ImageDone):
                    pixels[event.row] = event.pixels_3HW.float().cpu()
                if not isinstance(event, PatchDone) or event.feature_C is None:
                    continue
                features[event.row, event.done - 1] = event.feature_C.float().cpu()
                bar.update()
                if callback_on_step_end is not None:
                    given = {name: event.feature_C for name in callback_on_step_end_tensor_inputs}
                    callback_on_step_end(self, event.done - 1, event.row, given)
                if self._interrupt:
                    events.close()
                    break

        if output_type == "latent":
            return ImagePipelineOutput(images=features) if return_dict else (features,)  # type: ignore[arg-type]

        # 2. Pictures that were interrupted are decoded as they are.
        for row in set(range(count)) - pixels.keys():
            pixels[row] = self.model.decode_images(features[row : row + 1])[0].float().cpu()
        images = _converted([pixels[row] for row in range(count)], output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)  # type: ignore[arg-type]


def _check(output_type: str, side: int, size: dict[str, int | None]) -> None:
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ArgumentError(
            f"there is no {output_type!r}",
            where="the argument output_type",
            hint='give "pil", "np", "pt" or "latent"',
        )
    for name, asked in size.items():
        if asked not in (None, side):
            raise ArgumentError(
                f"this model draws pictures of {side} x {side} pixels",
                where=f"the argument {name}",
                hint="scale the picture afterwards, as in: image.resize((512, 512))",
            )


def _recipe(asked: dict[str, Any]) -> GenerateRecipe:
    """The recipe of a call, whose errors have diffusers' names. Raises: ArgumentError."""
    try:
        return recipe_of(GenerateRecipe, asked, {})
    except ArgumentError as error:
        key = error.where.removeprefix("the argument ")
        name = NAMES.get(key, key)
        message = error.message.replace(key, name, 1)
        raise ArgumentError(message, where=f"the argument {name}", hint=error.hint) from error


def _by_negative(
    texts: Sequence[str], negative: str | Sequence[str] | None
) -> list[tuple[Sequence[str], str | None]]:
    """Prompts, and what all of them are led away from."""
    if negative is None or isinstance(negative, str):
        return [(texts, negative)]
    each = texts_of("negative_prompt", negative)
    if len(each) != len(texts):
        raise ArgumentError(
            f"{len(each)} negative prompts for {len(texts)} prompts",
            where="the argument negative_prompt",
            hint="give one for each prompt, or one for all",
        )
    return [([text], against) for text, against in zip(texts, each, strict=True)]


def _check_inputs(asked: Sequence[str], known: Sequence[str]) -> None:
    """Raises: ArgumentError when a callback is to be given what there is not."""
    for name in asked:
        if name not in known:
            raise ArgumentError(
                f"a callback is given {' and '.join(known)}, not {name!r}",
                where="the argument callback_on_step_end_tensor_inputs",
                hint=f"leave it out, or give {[*known]}",
            )


def _seeds(generator: Generators, count: int) -> list[int]:
    """A seed for each picture."""
    if generator is None or isinstance(generator, torch.Generator):
        return _drawn(generator, count)
    is_list = isinstance(generator, Sequence)
    if not is_list or not all(isinstance(each, torch.Generator) for each in generator):
        raise ArgumentError(
            f"{generator!r:.80} is no torch.Generator",
            where="the argument generator",
            hint="give one, as in: generator=torch.Generator().manual_seed(1)",
        )
    if len(generator) != count:
        raise ArgumentError(
            f"{len(generator)} generators for {count} pictures",
            where="the argument generator",
            hint="give one for each picture, or one for all",
        )
    return [_drawn(each, 1)[0] for each in generator]


def _drawn(generator: torch.Generator | None, count: int) -> list[int]:
    device = "cpu" if generator is None else generator.device
    return torch.randint(GENERATOR_SEEDS, (count,), generator=generator, device=device).tolist()


def _converted(
    pixels: Sequence[Tensor], output_type: str
) -> list[Image.Image] | np.ndarray | Tensor:
    if output_type == "pil":
        return [to_image(pixels_3HW) for pixels_3HW in pixels]
    values_N3HW = ((torch.stack(list(pixels)) + 1) / 2).clamp(0, 1)
    return values_N3HW if output_type == "pt" else values_N3HW.permute(0, 2, 3, 1).numpy()
