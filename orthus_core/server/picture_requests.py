"""Requests for pictures in OpenAI's shapes, checked, and as rows for the worker.

What the interface of OpenAI has and a model here has not is refused with the reason, unless it
changes nothing. Values of sampling have the names of the commands, of diffusers, or of OpenAI.

Legend: N kept patches, C feature channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from orthus_core.api.arguments import named, recipe_of
from orthus_core.api.images import ImageRequest, prepare_edit, prepare_generate
from orthus_core.api.inputs import Edit
from orthus_core.api.loaded import LoadedModel
from orthus_core.recipe import EditRecipe, GenerateRecipe, StoryRecipe
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.results.metadata import GenerationInfo
from orthus_core.samplers.seeds import choose_seeds
from orthus_core.server.body_fields import A_FILE, Fields, Refused, shown
from orthus_core.server.model_worker import PreparedRows
from orthus_core.server.picture_store import PictureStore
from orthus_core.server.uploaded_pictures import UploadedPicture, content_of_url, read_picture

# What changes nothing here: names for statistics, and qualities that a model has once.
IGNORED = ("user", "moderation", "style", "quality", "metadata", "store", "service_tier")
IGNORED += ("safety_identifier", "prompt_cache_key", "parallel_tool_calls", "input_fidelity")
IGNORED += ("prompt_cache_retention",)

SAMPLING = {
    "num_inference_steps": "steps",
    "steps": "steps",
    "guidance_scale": "guidance",
    "guidance": "guidance",
    "image_guidance_scale": "image_guidance",
    "image_guidance": "image_guidance",
    "guidance_interval": "guidance_interval",
    "guidance_schedule": "guidance_schedule",
    "noise_scale": "noise_scale",
    "step_tolerance": "step_tolerance",
    "preset": "preset",
    "scheduler": "scheduler",
    "negative_prompt": "negative_prompt",
    "max_text": "max_text",
}
"""Keys of requests for pictures, and their recipe keys."""

INTEGERS = ("steps", "max_text")
NUMBERS = ("guidance", "image_guidance", "noise_scale", "step_tolerance")


Drawing = type[GenerateRecipe] | type[EditRecipe] | type[StoryRecipe]


class Served(NamedTuple):
    """What requests may ask for.

    Attributes:
        loaded: Open model.
        name: Name of the model in the interface.
        store: Pictures that were drawn lately.
        most_images: Pictures, or answers, of one request.
    """

    loaded: LoadedModel
    name: str
    store: PictureStore
    most_images: int = 10

    @property
    def size(self) -> int:
        """Pixels of the model's pictures along a side."""
        return self.loaded.model.model.vqmodel.config.resolution

    @property
    def size_name(self) -> str:
        return f"{self.size}x{self.size}"


def shown_at(partial_images: int, patches: int) -> frozenset[int]:
    """Numbers of patches at which an unfinished picture is shown: the first patch, then at even
    distances.
    """
    count = min(partial_images, patches - 1)
    return frozenset(1 + number * (patches - 1) // count for number in range(count))


class AcceptedPictures(NamedTuple):
    """What an answer says of a request for pictures, besides the pictures.

    Attributes:
        infos: How each picture is made.
        text_tokens, image_tokens: Tokens of the prompt; those of pictures are patches or codes.
    """

    infos: list[GenerationInfo]
    text_tokens: int
    image_tokens: int


class ImageAsk(NamedTuple):
    """A request for pictures.

    Attributes:
        prompt: Prompt, or instruction of an edit.
        recipe: The recipe of the command that would do the same.
        seeds: Seed of each picture.
        pictures: Pictures to edit; empty for pictures from text.
        kept: Picture whose top rows are kept, and the number of rows; None draws every row.
        as_url: Whether pictures are answered as URLs.
        stream: Whether the answer is a stream.
        partial_images: Unfinished pictures that the stream shows before each finished one.
    """

    prompt: str
    recipe: GenerateRecipe | EditRecipe
    seeds: list[int]
    pictures: list[UploadedPicture]
    kept: tuple[UploadedPicture, int] | None
    as_url: bool
    stream: bool
    partial_images: int

    def prepare(self, loaded: LoadedModel, store: PictureStore) -> PreparedRows:
        """Its rows; `about` is an `AcceptedPictures`. Raises: As `prepare_generate`."""
        if isinstance(self.recipe, EditRecipe):
            edit = Edit(list(self.pictures), self.prompt.strip())  # type: ignore[arg-type]
            request = prepare_edit(loaded, self.recipe, [edit], self.seeds)
        else:
            request = prepare_generate(loaded, self.recipe, [self.prompt], self.seeds)
            if self.kept:
                request = _continued(request, *self.kept, store)
        ids = request.prompts[0].context.ids
        of_pictures = {loaded.model.config.image_token_id, *loaded.model.code_token_ids}
        pictures = sum(each in of_pictures for each in ids)
        about = AcceptedPictures(list(request.infos), len(ids) - pictures, pictures)
        return PreparedRows(request.prompts, request.params, about=about)


def read_generation(body: Any, served: Served) -> ImageAsk:
    """The body of a request for pictures from text. Raises: Refused, DataError."""
    fields = Fields(body)
    kept = _kept_rows(fields.take("continue_from"), served)
    return _image_ask(fields, served, GenerateRecipe, [], kept)


def read_edit(form: Mapping[str, Any], pictures: list[UploadedPicture], served: Served) -> ImageAsk:
    """The fields of a form that asks for an edit. Raises: Refused."""
    fields = Fields(form, from_form=True)
    if not pictures:
        files = [name for name, value in form.items() if value == A_FILE and name != "mask"]
        hint = "send it as a file"
        if "image" in form:
            hint = "image is text here, and must be a file"
        elif files:
            hint = f"the file must have the name image, and not {shown(files[0])}"
        raise Refused("there is no picture to edit", where="image", hint=hint)
    reason = "the whole picture is drawn anew, as the prompt says"
    against = "an edit is guided by its picture and its words"
    fields.unsupported({"mask": (None, reason), "negative_prompt": (None, against)})
    return _image_ask(fields, served, EditRecipe, pictures, None)


def _image_ask(
    fields: Fields,
    served: Served,
    schema: type[GenerateRecipe] | type[EditRecipe],
    pictures: list[UploadedPicture],
    kept: tuple[UploadedPicture, int] | None,
) -> ImageAsk:
    check_model(fields.text("model"), served)
    prompt = fields.text("prompt")
    if prompt is None or not prompt.strip():
        raise Refused("the prompt is empty", where="prompt", hint="say what you want to see")
    count = fields.integer("n", 1, 1, served.most_images)
    seed = fields.integer("seed")
    fields.choice(
        "size",
        ("auto", served.size_name),
        "auto",
        f"this model draws {served.size_name}; scale the picture afterwards",
    )
    fields.choice("output_format", ("png",), "png", "pictures are PNG, with how they were made")
    fields.choice("background", ("auto", "opaque"), "auto", "pictures have no transparent parts")
    as_url = fields.choice("response_format", ("b64_json", "url"), "b64_json") == "url"
    stream = fields.flag("stream")
    partial = fields.integer("partial_images", 0, 0, served.loaded.model.config.patches)
    fields.unsupported({"output_compression": (100, "pictures are PNG, without loss")})
    values = read_sampling(fields, schema)
    fields.ignore(*IGNORED)
    fields.done()
    if as_url and stream:
        raise Refused(
            "a stream answers pictures as b64_json",
            where="response_format",
            hint="leave out response_format or stream",
        )
    values |= {"num_images": count, "seed": seed}
    recipe = recipe_of(schema, named(schema, values, {}), opened_keys(served.loaded))
    seeds = choose_seeds(recipe.seeds, recipe.num_images)
    return ImageAsk(prompt, recipe, seeds, pictures, kept, as_url, stream, partial)


def read_sampling(fields: Fields, schema: Drawing) -> dict[str, Any]:
    """Values of sampling by their recipe keys.

    Raises:
        Refused: When one is given by two names, or names code.
    """
    keys = {field.name for field in dataclasses.fields(schema)}
    values: dict[str, Any] = {}
    for name, key in SAMPLING.items():
        if key not in keys or name not in fields:
            continue
        if key in values:
            raise Refused(f"{name} is another name of {key}, and both are given", where=name)
        if key in INTEGERS:
            values[key] = fields.integer(name)
        elif key in NUMBERS:
            values[key] = fields.number(name)
        elif key == "guidance_interval":
            values[key] = fields.integers(name)
        elif key == "scheduler":  # a class would be code of the client's choice
            values[key] = fields.choice(name, tuple(SOLVERS), "")
        else:
            values[key] = fields.text(name)
    for name in (name for name, key in SAMPLING.items() if key in keys):
        fields.take(name)
    return values


def opened_keys(loaded: LoadedModel) -> dict[str, Any]:
    """The keys of every recipe that were settled when the model was opened."""
    lora = [f"{each['path']}:{each['scale']!r}" for each in loaded.about.get("lora", ())]
    return {"model": loaded.about["name"], **({"lora": lora} if lora else {})}


def check_model(asked: str | None, served: Served) -> None:
    """Raises: Refused when a model is asked for that is not the one that is open."""
    if asked not in (None, "", served.name):
        raise Refused(
            f"there is no model {shown(asked)} here",
            where="model",
            hint=f"this server has {served.name!r}; leave out the model to use it",
            status=404,
            code="model_not_found",
        )


def _kept_rows(asked: Any, served: Served) -> tuple[UploadedPicture, int] | None:
    """The picture to continue and the number of its rows that are kept."""
    if asked is None:
        return None
    fields = Fields(asked, where="continue_from")
    url = fields.text("image", longest=2**31)
    rows = served.loaded.model.config.grid[0]
    kept = fields.integer("keep_rows", rows // 2, 1, rows - 1)
    fields.done()
    if url is None:
        raise Refused("there is no picture to continue", where="continue_from.image")
    where = "continue_from.image"
    return read_picture(content_of_url(url, where), served.size, where), kept


def _continued(
    request: ImageRequest, picture: UploadedPicture, rows: int, store: PictureStore
) -> ImageRequest:
    """The request with the top rows of a picture kept: with the features that it was drawn with
    when they are known, else with those that the autoencoder reads from its pixels.
    """
    loaded = request.loaded
    drawn_PC = store.features(picture.pixels)
    known = drawn_PC is not None
    if drawn_PC is None:
        drawn_PC = loaded.builder.features([picture])[0]
    begun_NC = drawn_PC[: rows * loaded.model.config.grid[1]].to(loaded.model.device)
    begun = {"rows": rows, "features": "drawn before" if known else "encoded"}
    infos = [info._replace(begun=begun, inputs=(picture.pixels,)) for info in request.infos]
    prompts = tuple(prompt._replace(begun=begun_NC) for prompt in request.prompts)
    return dataclasses.replace(request, prompts=prompts, infos=tuple(infos))
