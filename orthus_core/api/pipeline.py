"""Draw, edit, tell stories and caption from Python.

    from orthus_core import Orthus

    orthus = Orthus.open("mini")
    orthus.generate("a snowman").images[0]
    orthus.edit("cat.png", "make it night", seed=1).save("night.png")
    orthus.story("a story about a fox", panels=3).save("story")
    orthus.caption("cat.png").texts[0]

    for event in orthus.generate.stream("a snowman"):  # PatchDone, ImageDone ...
        ...

Values have the names of the commands' recipe keys (docs/recipes.md), or those of diffusers
(`arguments.ALIASES`); those that are not given are the model's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from orthus_core.api.arguments import (
    TEXT_KEYS,
    check_example,
    check_open,
    check_seeds,
    named,
    recipe_of,
    seeds_of,
    text_of,
    texts_of,
)
from orthus_core.api.captions import Answers, CaptionCollector, prepare_caption
from orthus_core.api.continuation import Continuation, open_continuation
from orthus_core.api.images import (
    ImageRequest,
    Images,
    prepare_edit,
    prepare_generate,
)
from orthus_core.api.inputs import PictureLike, edits_of, input_images
from orthus_core.api.loaded import LoadedModel, load_model
from orthus_core.api.requests import run
from orthus_core.api.stories import Story, StoryCollector, earlier_values, open_story, prepare_story
from orthus_core.api.streamed import Work, takes_keys_of
from orthus_core.device import limit_threads
from orthus_core.errors import ArgumentError
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.recipe import (
    CaptionRecipe,
    EditRecipe,
    GenerateRecipe,
    StoryRecipe,
)
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.samplers.seeds import choose_seeds

Seed = int | Sequence[int] | None
"""One seed counts on from it, several stand for themselves, None draws them."""


class Orthus:
    """An open model and everything needed to use it.

    Args:
        model: An Orthus or a discrete Chameleon, in evaluation mode.
        tokenizer: Tokenizer of that model.
        about: Name, hash, device, precision and adapters, as results record them.
        quantize: Bits of the backbone's quantised weights; None if they are not quantised.

    Raises:
        CheckpointError: When there is no tokenizer.
    """

    def __init__(
        self,
        model: InterleavedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        about: dict[str, Any] | None = None,
        quantize: Literal[4, 8] | None = None,
    ) -> None:
        limit_threads()  # the model may not have been opened by us
        self.model = model
        self.quantize = quantize
        self.builder = PromptBuilder(model, tokenizer)
        self.about = {"name": "", **(about or {})}

    @classmethod
    def open(
        cls,
        source: str | Path = "mini",
        *,
        device: str | torch.device | None = "auto",
        dtype: str | torch.dtype | None = None,
        quantize: Literal[4, 8] | None = None,
        low_memory: bool = False,
        lora: str | Path | Sequence[str | Path] | None = None,
        **unknown: Any,
    ) -> Orthus:
        """Opens a model by folder, alias or hub id.

        Args:
            source: A folder, `mini`, `mini-fast` or `chameleon-mini` (included), `base`,
                `instruct`, `chameleon-7b`, `anole-7b`, or a hub id, which is downloaded once.
            device: "auto" and None take an accelerator where there is one.
            dtype: Precision of the weights: "bf16", "fp16", "fp32", torch's or its name, such as
                "float32"; None and "auto" are bf16 on cuda and fp32 elsewhere.
            quantize: Bits to hold the backbone's weights in; the rest is then bf16 by default.
            low_memory: Leave the backbone in its files, and fetch each layer when it is used.
            lora: Adapters that `orthus posttrain` trained, one or several: a folder, or
                "folder:scale" with a number that they are multiplied by.
            unknown: Nothing else; a mistyped name is refused with the nearest known one.

        Returns: The model in evaluation mode, on that device.

        Raises:
            ArgumentError: When an argument is unknown, or of the wrong type.
            CheckpointError: When the folder is incomplete or damaged, or has no tokenizer, or
                adapters do not read or are of another model.
            HubError: When a hub model is not available.
        """
        several = [lora] if isinstance(lora, (str, Path)) else lora
        how = {
            "device": device,
            "dtype": dtype,
            "quantize": quantize,
            "low_memory": low_memory,
            "lora": list(map(str, several)) if isinstance(several, Sequence) else several,
        }
        check_open(source, unknown, **how)
        loaded = load_model(source, **how)
        opened = cls(loaded.model, loaded.tokenizer, loaded.about, quantize)
        opened.builder = loaded.builder  # it reads emoji as the words of the model's folder
        return opened

    @takes_keys_of(GenerateRecipe)
    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        num_images: int | None = None,
        seed: Seed = None,
        batch_size: Any = None,
        continue_from: str | Path | None = None,
        keep_rows: int | None = None,
        **asked: Any,
    ) -> Work[Images]:
        """Draws pictures from text (2412.00127).

        Args:
            prompts: One prompt, or several.
            num_images: Pictures for each prompt, 1 by default; `n` is another name. How much they
                differ depends on the model: those of `mini` differ in place and background.
            seed: Each seed gives the same picture in any batch, except for rounding: a colour value
                may differ by 1 of 255. A single seed counts up for `num_images`.
            batch_size: Pictures drawn at once; "auto" or None means as many as fit into memory.
            continue_from: File of a picture whose top rows of patches are kept.
            keep_rows: Rows to keep of it; half of them by default.
            asked: Further keys of `GenerateRecipe`: steps, guidance, noise_scale, negative_prompt,
                best_of, scale ... `num_inference_steps` and `guidance_scale` are other names of the
                first two.

        Returns: One RGB image [H, W] for each prompt and seed, all seeds of the first prompt first;
            H and W are the model's resolution in pixels, such as 512 for the 7B.

        Yields, when streamed: PatchDone and ImageDone (pixels [3, H, W] in [-1, 1]), rows numbered
            as the images.

        Raises:
            PromptError: When a prompt is empty or too long.
            ArgumentError: For an argument that is unknown, of the wrong type or out of its range; a
                RecipeError, a TypeError and a ValueError in one.
            CheckpointError: When the model has no pixel decoder.
            DataError: When the picture to continue cannot be read.
        """
        usual = {"num_images": num_images, "seed": seed, "batch_size": batch_size}
        recipe = recipe_of(GenerateRecipe, named(GenerateRecipe, usual, asked), self._opened)
        texts = texts_of("prompts", prompts)
        seeds = choose_seeds(recipe.seeds, recipe.num_images)
        begun = continuation_of(continue_from, keep_rows)
        return (yield from _images(prepare_generate(self._loaded, recipe, texts, seeds, begun)))

    @takes_keys_of(EditRecipe)
    def edit(
        self,
        pictures: PictureLike | Sequence[PictureLike],
        instruction: str = "",
        *,
        each: bool = False,
        example: tuple[PictureLike, PictureLike] | None = None,
        num_images: int | None = None,
        seed: Seed = None,
        batch_size: Any = None,
        **asked: Any,
    ) -> Work[Images]:
        """Changes a picture by an instruction or an example (2412.00127, figure 3).

        Args:
            pictures: One picture, or several that are read together: files, bytes, PIL images or
                numpy values [h, w, 3] of any size, scaled and cropped to the model's square [H, W].
            instruction: The change in words; left out with an example.
            each: Change each picture by itself, rather than read several together.
            example: A picture before and after the change.
            num_images, seed, batch_size: As for `generate`.
            asked: Further keys of `EditRecipe`: steps, guidance, image_guidance, max_text ...

        Returns: One RGB image [H, W] for each seed (of each picture, with `each`); `texts` holds
            what the model wrote before each.

        Yields, when streamed: As `generate`; also TextPiece where the model writes first.

        Raises:
            PromptError: When there is no picture, or neither an instruction nor an example.
            DataError: When a picture cannot be read.
            ArgumentError, CheckpointError: As `generate`.
        """
        usual = {"num_images": num_images, "seed": seed, "batch_size": batch_size}
        before_after = input_images(() if example is None else example)
        usual |= {"by_example": True if before_after else None}
        recipe = recipe_of(EditRecipe, named(EditRecipe, usual, asked), self._opened)
        instruction = text_of("instruction", instruction)
        check_example(before_after)
        edits = edits_of(input_images(pictures), instruction.strip(), before_after, each=each)
        seeds = choose_seeds(recipe.seeds, recipe.num_images)
        return (yield from _images(prepare_edit(self._loaded, recipe, edits, seeds)))

    @takes_keys_of(StoryRecipe)
    def story(
        self,
        prompt: str = "",
        images: PictureLike | Sequence[PictureLike] = (),
        *,
        panels: int | None = None,
        seed: int | None = None,
        from_story: str | Path | None = None,
        from_panel: int | None = None,
        **asked: Any,
    ) -> Work[Story]:
        """Tells a story in alternating words and pictures; every panel has both.

        Args:
            prompt: Words that the story begins with.
            images: Pictures that the story begins with.
            panels: Pictures to draw, 3 by default.
            seed: Seed of the story; chosen at random if None.
            from_story: Folder of an earlier story to continue, with its values where none are
                given; from its end unless `from_panel` is given.
            from_panel: First panel of the earlier story to tell anew.
            asked: Further keys of `StoryRecipe`: free, keep_panels, steps, guidance, and for the
                text: max_new_tokens (per panel), temperature (0 takes the likeliest words, so that
                every seed tells the same), top_p.

        Returns: The given panels, then the new ones; each new panel has a text and an RGB image [H,
            W], and `images` and `texts` contain only these.

        Yields, when streamed: TextPiece, ImageBegun, PatchDone, ImageDone, Note, and a `PanelDone`
            after each panel.

        Raises:
            PromptError: When the opening is empty, or leaves no room for a panel.
            DataError: When a picture or the earlier story cannot be read.
            ArgumentError, CheckpointError: As `generate`.
        """
        usual = {"panels": panels, "seed": seed, "from_panel": from_panel}
        values = named(StoryRecipe, usual, asked)
        check_seeds(values["seed"], 1, "a story has one seed, and several are given")
        recipe = recipe_of(StoryRecipe, values, self._opened)
        if from_story is not None:
            flags = {f"text.{name}" if name in TEXT_KEYS else name: values[name] for name in values}
            flags = earlier_values(from_story, {"model": self.about["name"] or "mini", **flags})
            flags.pop("lora", None)  # the model is open, with adapters or without
            recipe = recipe_of(StoryRecipe, flags, self._opened)
        opening = open_story(recipe, text_of("prompt", prompt), images)
        (chosen,) = choose_seeds(seeds_of(values["seed"]), 1)
        recipe = dataclasses.replace(recipe, seed=chosen)
        request = prepare_story(self._loaded, recipe, opening)
        collector = StoryCollector(request)
        for event in run(request):
            collector.add(event)
            yield event
        return collector.story

    @takes_keys_of(CaptionRecipe)
    def caption(
        self,
        pictures: PictureLike | Sequence[PictureLike],
        question: str | None = None,
        *,
        seed: Seed = None,
        batch_size: Any = None,
        **asked: Any,
    ) -> Work[Answers]:
        """Describes pictures, or answers a question about each.

        Args:
            pictures: One picture, or several: files, bytes, PIL images or numpy values [h, w, 3]
                of any size.
            question: Question about each picture; "What is this?" by default.
            seed: Seed of sampled text; it changes nothing at temperature 0, the default.
            batch_size: Pictures read at once.
            asked: Further keys for the text: max_new_tokens, temperature (0 takes the likeliest
                words), top_p.

        Returns: One text for each picture.

        Yields, when streamed: TextPiece, RowDone and a `CaptionDone` for each row, which is a
            picture; Progress.

        Raises:
            PromptError: When the question is empty, or does not fit the context.
            DataError: When a picture cannot be read.
            ArgumentError: As `generate`.
        """
        usual = {"question": question, "seed": seed, "batch_size": batch_size}
        values = named(CaptionRecipe, usual, asked)
        recipe = recipe_of(CaptionRecipe, values, self._opened)
        images = input_images(pictures)
        check_seeds(values["seed"], max(1, len(images)), "more seeds than pictures are given")
        seeds = choose_seeds(seeds_of(values["seed"]), len(images))
        request = prepare_caption(self._loaded, recipe, images, seeds)
        collector = CaptionCollector(request)
        for event in run(request):
            collector.add(event)
            yield event
        return collector.captions

    def push_to_hub(self, repo_id: str, *, license: str = "other", **how: Any) -> str:
        """Uploads the open model to the Hugging Face hub, with a card and all that opens it there.

        Args:
            repo_id: Name on the hub, `owner/name`.
            license: Licence of the weights, as the hub spells it, such as "apache-2.0"; "other"
                stands for the terms of the model that they were made from.
            how: private, token, revision, create_pr, commit_message, max_shard_size.

        Returns: The address of the commit.

        Raises:
            HubError: When the hub cannot be reached, or refuses.
        """
        from orthus_core.checkpoint.publish import push_model

        return push_model(self.model, None, repo_id, license=license, **how)

    @property
    def _loaded(self) -> LoadedModel:
        return LoadedModel(self.builder, self.about, None)

    @property
    def _opened(self) -> dict[str, Any]:
        """The keys of every recipe that were settled when the model was opened."""
        lora = [f"{each['path']}:{each['scale']!r}" for each in self.about.get("lora", ())]
        opened = {"model": self.about["name"] or None, "quantize": self.quantize}
        return opened | ({"lora": lora} if lora else {})


def continuation_of(path: str | Path | None, rows: int | None) -> Continuation | None:
    """The picture to continue. Raises: ArgumentError when rows are to be kept of none."""
    if path is not None:
        return open_continuation(Path(path), rows)
    if rows is not None:
        raise ArgumentError(
            "rows are kept of a picture, and none is named",
            where="the argument keep_rows",
            hint='name it as in: continue_from="out.png"',
        )
    return None


def _images(request: ImageRequest) -> Work[Images]:
    collector = request.collector()
    for event in run(request):
        collector.add(event)
        yield event
    return collector.images
