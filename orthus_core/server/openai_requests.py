"""Bodies of requests in OpenAI's shapes, checked, and as rows for the worker.

What the interface of OpenAI has and a model here has not is refused with the reason, unless it
changes nothing; keys that no interface has are refused with what was probably meant. Values of
sampling have the names of the commands, of diffusers, or of OpenAI.

Legend: N kept patches, C feature channels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from orthus_core.api.arguments import named, recipe_of
from orthus_core.api.images import ImageRequest, prepare_edit, prepare_generate
from orthus_core.api.inputs import Edit
from orthus_core.api.loaded import LoadedModel
from orthus_core.data.document import Segment, check_unicode
from orthus_core.errors import OrthusError, PromptError
from orthus_core.recipe import EditRecipe, GenerateRecipe
from orthus_core.recipe.solver_registry import SOLVERS
from orthus_core.results.metadata import GenerationInfo
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.seeds import choose_seeds
from orthus_core.server.model_worker import PreparedRows
from orthus_core.server.picture_store import PictureStore
from orthus_core.server.uploaded_pictures import UploadedPicture, content_of_url, read_picture

# Characters of a prompt, and of all texts of a conversation.
LONGEST_PROMPT = 32_000
LONGEST_CONVERSATION = 200_000
MOST_MESSAGES = 256
MOST_STOPS = 4
DEFAULT_MAX_TOKENS = 256

# What changes nothing here: names for statistics, and qualities that a model has once.
IGNORED = ("user", "moderation", "style", "quality", "metadata", "store", "service_tier")
IGNORED += ("safety_identifier", "prompt_cache_key", "parallel_tool_calls", "input_fidelity")

SAMPLING = {
    "num_inference_steps": "steps",
    "steps": "steps",
    "guidance_scale": "guidance",
    "guidance": "guidance",
    "image_guidance_scale": "image_guidance",
    "image_guidance": "image_guidance",
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


class Refused(OrthusError):
    """A request that cannot be answered as it stands.

    Args:
        message: What is wrong.
        where: Field of the request.
        hint: What to do.
        status: HTTP status.
        code: OpenAI's short name of the error.
        headers: Further headers of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        hint: str = "",
        status: int = 400,
        code: str = "invalid_value",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status, self.code, self.headers = status, code, dict(headers or {})


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


class Fields:
    """The fields of a body, taken one by one; `done` refuses those that are left.

    Args:
        body: The body.
        from_form: Whether values are texts, as in a form.
    """

    def __init__(self, body: Any, *, from_form: bool = False) -> None:
        if not isinstance(body, Mapping):
            raise Refused("the body must be a JSON object", where="body")
        self._left = {name: value for name, value in body.items() if value is not None}
        self._known: set[str] = set()
        self._from_form = from_form

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, default: Any = None) -> Any:
        self._known.add(name)
        return self._left.pop(name, default)

    def text(self, name: str, default: str | None = None, longest: int = LONGEST_PROMPT) -> Any:
        value = self.take(name, default)
        if value is None:
            return None
        if not isinstance(value, str):
            raise Refused(f"{name} must be text, not {_shown(value)}", where=name)
        return checked_text(value, name, longest)

    def integer(
        self, name: str, default: int | None = None, low: int = 0, high: int = 2**63 - 1
    ) -> Any:
        value = self._number(name, default)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int):
            raise Refused(f"{name} must be a whole number, not {_shown(value)}", where=name)
        if not low <= value <= high:
            raise Refused(f"{name} must be from {low} to {high}, not {_shown(value)}", where=name)
        return value

    def number(
        self, name: str, default: float | None = None, low: float = -1e6, high: float = 1e6
    ) -> Any:
        value = self._number(name, default)
        if value is None:
            return None
        if not low <= value <= high:  # also what is no number at all
            raise Refused(f"{name} must be from {low:g} to {high:g}", where=name)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if self._from_form and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if not isinstance(value, bool):
            raise Refused(f"{name} must be true or false, not {_shown(value)}", where=name)
        return value

    def choice(self, name: str, choices: Sequence[str], default: str, hint: str = "") -> str:
        value = self.take(name, default)
        if value not in choices:
            raise Refused(
                f"{name} {_shown(value)} is not supported",
                where=name,
                hint=hint or f"use {' or '.join(choices)}",
            )
        return value

    def unsupported(self, reasons: Mapping[str, tuple[Any, str]]) -> None:
        """Refuses fields that have no meaning here, unless they have a value that changes nothing.

        Args:
            reasons: By name: that value, and why another is refused.
        """
        for name, (idle, reason) in reasons.items():
            if self.take(name, idle) != idle:
                raise Refused(f"{name} is not supported: {reason}", where=name, hint="leave it out")

    def ignore(self, *names: str) -> None:
        for name in names:
            self.take(name)

    def done(self) -> None:
        """Refuses what is left. Raises: Refused."""
        for name in self._left:
            near = get_close_matches(str(name), self._known, 1)
            raise Refused(
                f"unknown field {_shown(name)}" + (f", did you mean {near[0]!r}?" if near else ""),
                where=str(name)[:64],
                code="unknown_parameter",
            )

    def _number(self, name: str, default: Any) -> Any:
        value = self.take(name, default)
        if self._from_form and isinstance(value, str):
            try:
                value = float(value) if len(value) < 32 else math.nan
            except ValueError:
                pass
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise Refused(f"{name} must be a number, not {_shown(value)}", where=name)
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(f"{name} must be a finite number", where=name)
        return value


def checked_text(text: str, where: str, longest: int) -> str:
    """The text, if it is Unicode and not too long. Raises: Refused."""
    if len(text) > longest:
        raise Refused(
            f"{where} is {len(text)} characters long, and at most {longest} are read",
            where=where,
            code="string_above_max_length",
        )
    check_unicode(text, where)
    return text


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

    def shown_at(self, patches: int) -> frozenset[int]:
        """Numbers of patches at which an unfinished picture is shown: the first patch, then at even
        distances.
        """
        count = min(self.partial_images, patches - 1)
        return frozenset(max(1, number * patches // count) for number in range(count))

    def prepare(self, loaded: LoadedModel, store: PictureStore) -> PreparedRows:
        """Its rows; `about` lists their `GenerationInfo`. Raises: As `prepare_generate`."""
        if isinstance(self.recipe, EditRecipe):
            edit = Edit(list(self.pictures), self.prompt.strip())  # type: ignore[arg-type]
            request = prepare_edit(loaded, self.recipe, [edit], self.seeds)
        else:
            request = prepare_generate(loaded, self.recipe, [self.prompt], self.seeds)
            if self.kept:
                request = _continued(request, *self.kept, store)
        return PreparedRows(request.prompts, request.params, about=list(request.infos))


def read_generation(body: Any, served: Served) -> ImageAsk:
    """The body of a request for pictures from text. Raises: Refused, DataError."""
    fields = Fields(body)
    kept = _kept_rows(fields.take("continue_from"), served)
    return _image_ask(fields, served, GenerateRecipe, [], kept)


def read_edit(form: Mapping[str, Any], pictures: list[UploadedPicture], served: Served) -> ImageAsk:
    """The fields of a form that asks for an edit. Raises: Refused."""
    fields = Fields(form, from_form=True)
    if not pictures:
        raise Refused("there is no picture to edit", where="image", hint="send it as a file")
    reason = "the whole picture is drawn anew, as the prompt says"
    fields.unsupported({"mask": (None, reason)})
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
    values = _sampling(fields, schema)
    fields.ignore(*IGNORED)
    fields.done()
    if as_url and stream:
        raise Refused(
            "a stream answers pictures as b64_json",
            where="response_format",
            hint="leave out response_format or stream",
        )
    values |= {"num_images": count, "seed": seed}
    recipe = recipe_of(schema, named(schema, values, {}), _opened(served.loaded))
    seeds = choose_seeds(recipe.seeds, recipe.num_images)
    return ImageAsk(prompt, recipe, seeds, pictures, kept, as_url, stream, partial)


def _sampling(fields: Fields, schema: type[GenerateRecipe] | type[EditRecipe]) -> dict[str, Any]:
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
        elif key == "scheduler":  # a class would be code of the client's choice
            values[key] = fields.choice(name, tuple(SOLVERS), "")
        else:
            values[key] = fields.text(name)
    for name in (name for name, key in SAMPLING.items() if key in keys):
        fields.take(name)
    return values


def _opened(loaded: LoadedModel) -> dict[str, Any]:
    """The keys of every recipe that were settled when the model was opened."""
    lora = [f"{each['path']}:{each['scale']!r}" for each in loaded.about.get("lora", ())]
    return {"model": loaded.about["name"], **({"lora": lora} if lora else {})}


def check_model(asked: str | None, served: Served) -> None:
    """Raises: Refused when a model is asked for that is not the one that is open."""
    if asked not in (None, "", served.name):
        raise Refused(
            f"there is no model {_shown(asked)} here",
            where="model",
            hint=f"this server has {served.name!r}; leave out the model to use it",
            status=404,
            code="model_not_found",
        )


def _kept_rows(asked: Any, served: Served) -> tuple[UploadedPicture, int] | None:
    """The picture to continue and the number of its rows that are kept."""
    if asked is None:
        return None
    fields = Fields(asked)
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


class ChatAsk(NamedTuple):
    """A request for an answer to a conversation.

    Attributes:
        segments: Texts and pictures of both sides.
        params: Values of `SamplingParams` that are asked for.
        max_images: Pictures that an answer may have; 0 is words alone.
        max_text: Most text tokens.
        sampling: Values of sampling by their names in `SamplingParams`.
        seeds: Seed of each answer.
        stops: Texts at which an answer ends.
        stream, partial_images: As for pictures.
        with_usage: Whether a stream ends with the number of tokens.
    """

    segments: list[Segment]
    max_images: int
    max_text: int
    sampling: dict[str, Any]
    seeds: list[int]
    stops: tuple[str, ...]
    stream: bool
    with_usage: bool
    partial_images: int

    def prepare(self, loaded: LoadedModel) -> PreparedRows:
        """Its rows; `about` is the number of the prompt's tokens. Raises: As `generate`."""
        config, builder = loaded.model.config, loaded.builder
        text = {name: self.sampling[name] for name in TEXT if name in self.sampling}
        if not self.max_images:
            params = SamplingParams(max_images=0, max_text=self.max_text, **text)
            prompt = builder.conversation(self.segments)
        else:
            task = "story" if self.max_text else "picture"
            params = SamplingParams.resolve(config, task, **self.sampling)
            fewest = 0 if self.max_text else self.max_images
            params = dataclasses.replace(
                params,
                max_images=self.max_images,
                min_images=fewest,
                max_text=self.max_text,
                end_with_image=not self.max_text,
            )
            prompt = builder.conversation(self.segments, params)
        room = config.max_position_embeddings - len(prompt.context.ids)
        if room < 1:
            raise PromptError(
                f"the conversation is {len(prompt.context.ids)} tokens long, and the model reads "
                f"{config.max_position_embeddings} in all",
                where="messages",
                hint="leave out earlier messages or pictures",
            )
        prompts = [prompt._replace(seed=seed) for seed in self.seeds]
        return PreparedRows(prompts, params, about=len(prompt.context.ids))


TEXT = ("temperature", "top_p")


def read_chat(body: Any, served: Served) -> ChatAsk:
    """The body of a request for an answer. Raises: Refused, DataError."""
    fields = Fields(body)
    check_model(fields.text("model"), served)
    segments = read_messages(fields.take("messages"), served)
    config = served.loaded.model.config
    modalities = fields.take("modalities", ["text"])
    if not isinstance(modalities, list) or not set(map(str, modalities)) <= {"text", "image"}:
        raise Refused(
            f"modalities {_shown(modalities)} are not supported",
            where="modalities",
            hint='use ["text"], ["image"] or ["text", "image"]',
        )
    most = fields.integer("max_images", 1, 1, served.most_images)
    limits = [fields.integer(name, None, 1) for name in ("max_completion_tokens", "max_tokens")]
    longest = next((limit for limit in limits if limit is not None), DEFAULT_MAX_TOKENS)
    sampling = _sampling(fields, GenerateRecipe)
    sampling |= {
        "temperature": fields.number("temperature", None, 0, 2),
        "top_p": fields.number("top_p", None, 1e-6, 1),
    }
    count = fields.integer("n", 1, 1, served.most_images)
    seed = fields.integer("seed")
    stops = _stops(fields.take("stop"))
    stream = fields.flag("stream")
    options = Fields(fields.take("stream_options", {}))
    with_usage = options.flag("include_usage")
    options.ignore("include_obfuscation")
    options.done()
    fields.unsupported(
        {
            "frequency_penalty": (0, "tokens are chosen as the model says"),
            "presence_penalty": (0, "tokens are chosen as the model says"),
            "logit_bias": ({}, "tokens are chosen as the model says"),
            "logprobs": (False, "they are not recorded"),
            "top_logprobs": (0, "they are not recorded"),
            "tools": ([], "the model calls no tools"),
            "tool_choice": ("none", "the model calls no tools"),
            "functions": ([], "the model calls no functions"),
            "response_format": ({"type": "text"}, "the model writes plain text"),
            "audio": (None, "the model does not speak"),
        }
    )
    partial = fields.integer("partial_images", 0, 0, config.patches)
    fields.ignore(*IGNORED)
    fields.done()
    return ChatAsk(
        segments,
        most if "image" in modalities else 0,
        min(longest, config.max_position_embeddings) if "text" in modalities else 0,
        {name: value for name, value in sampling.items() if value is not None},
        choose_seeds(() if seed is None else (seed,), count),
        stops,
        stream,
        with_usage,
        partial,
    )


def read_messages(messages: Any, served: Served) -> list[Segment]:
    """The texts and pictures of a conversation; those of the system come before the user's first.

    Raises:
        Refused: When they are not in OpenAI's form, are too long, or the last is not the user's.
        DataError: When a picture cannot be read.
    """
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list of at least one", where="messages")
    if len(messages) > MOST_MESSAGES:
        raise Refused(f"at most {MOST_MESSAGES} messages are read", where="messages")
    segments: list[Segment] = []
    told: list[str] = []  # by the system, until the user's first words
    left, role = LONGEST_CONVERSATION, ""
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        fields = Fields(message)
        role = fields.choice("role", ("system", "developer", "user", "assistant"), "")
        for part in _parts(fields.take("content", ""), where, served):
            if isinstance(part, str):
                left -= len(part)
                if left < 0:
                    raise Refused(
                        f"the messages are longer than {LONGEST_CONVERSATION} characters",
                        where=where,
                        code="string_above_max_length",
                    )
            if role in ("system", "developer"):
                if not isinstance(part, str):
                    raise Refused("the system shows no pictures", where=where)
                told.append(part)
                continue
            if role == "user" and told and isinstance(part, str):
                part = " ".join([*told, part])
                told = []
            kind = "text" if isinstance(part, str) else "image"
            segments.append(Segment(kind, "model" if role == "assistant" else "user", part))
    if role != "user":
        raise Refused("the last message must be the user's", where="messages")
    if not any(segment.role == "user" for segment in segments[-1:]):
        raise Refused("the last message is empty", where=f"messages[{len(messages) - 1}]")
    return segments


def _parts(content: Any, where: str, served: Served) -> list[str | UploadedPicture]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Refused("content must be text, or a list of parts", where=f"{where}.content")
    parts: list[str | UploadedPicture] = []
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        fields = Fields(part)
        kind = fields.choice("type", ("text", "image_url"), "", "use text or image_url")
        if kind == "text":
            text = fields.text("text", "", LONGEST_CONVERSATION)
            if text.strip():
                parts.append(text)
            continue
        url = fields.take("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str):
            raise Refused("image_url needs a url", where=place)
        parts.append(read_picture(content_of_url(url, place), served.size, place))
    return parts


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    texts = isinstance(stops, list) and all(isinstance(each, str) and each for each in stops)
    if not texts or len(stops) > MOST_STOPS:
        raise Refused(f"stop must be a text, or a list of at most {MOST_STOPS}", where="stop")
    return tuple(stops)


def size_of_usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The numbers of tokens as chat answers have them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def seeds_of_infos(infos: Sequence[GenerationInfo]) -> list[int]:
    """The seed of each picture."""
    return [info.seed for info in infos]


def _shown(value: Any) -> str:
    """A client's value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
