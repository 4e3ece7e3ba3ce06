"""Requests for answers to conversations in OpenAI's shape, checked, and as rows for the worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from orthus_core.api.loaded import LoadedModel
from orthus_core.data.document import Segment
from orthus_core.errors import PromptError
from orthus_core.recipe import GenerateRecipe
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.seeds import choose_seeds
from orthus_core.server.body_fields import Fields, Refused, shown
from orthus_core.server.model_worker import PreparedRows
from orthus_core.server.picture_requests import IGNORED, Served, check_model, read_sampling
from orthus_core.server.uploaded_pictures import UploadedPicture, content_of_url, read_picture

# Characters of all texts of a conversation.
LONGEST_CONVERSATION = 200_000
MOST_MESSAGES = 256
MOST_STOPS = 4
DEFAULT_MAX_TOKENS = 256
# Share of the probability that the likeliest token alone always exceeds.
LEAST_TOP_P = 1e-6


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
        ending = EndAtStop(loaded, len(prompt.context.ids), self.stops)
        return PreparedRows(
            prompts, params, [ending] if self.stops else [], len(prompt.context.ids)
        )


class EndAtStop(LogitsProcessor):
    """Lets a row end as soon as its text has one of the stop texts."""

    def __init__(self, loaded: LoadedModel, prompt_tokens: int, stops: Sequence[str]) -> None:
        self._tokenizer, self._first, self._stops = loaded.tokenizer, prompt_tokens, stops
        eos = loaded.model.config.eos_token_id
        self._eos = eos[0] if isinstance(eos, list) else eos

    def __call__(self, ids_1S: Tensor, scores_1V: Tensor) -> Tensor:  # type: ignore[override]
        said = str(self._tokenizer.decode(ids_1S[0, self._first :], skip_special_tokens=True))
        if not any(stop in said for stop in self._stops):
            return scores_1V
        ended_1V = torch.full_like(scores_1V, float("-inf"))
        ended_1V[:, self._eos] = 0.0
        return ended_1V


TEXT = ("temperature", "top_p")


def read_chat(body: Any, served: Served) -> ChatAsk:
    """The body of a request for an answer. Raises: Refused, DataError."""
    fields = Fields(body)
    check_model(fields.text("model"), served)
    segments = read_messages(fields.take("messages"), served)
    config = served.loaded.model.config
    modalities = fields.take("modalities", ["text"])
    known = isinstance(modalities, list) and set(map(str, modalities)) <= {"text", "image"}
    if not known or not modalities:
        raise Refused(
            f"modalities {shown(modalities)} are not supported",
            where="modalities",
            hint='use ["text"], ["image"] or ["text", "image"]',
        )
    most = fields.integer("max_images", 1, 1, served.most_images)
    limits = [fields.integer(name, None, 1) for name in ("max_completion_tokens", "max_tokens")]
    longest = next((limit for limit in limits if limit is not None), DEFAULT_MAX_TOKENS)
    sampling = read_sampling(fields, GenerateRecipe)
    sampling |= {
        "temperature": fields.number("temperature", None, 0, 2),
        "top_p": fields.number("top_p", None, 0, 1),
    }
    if sampling["top_p"] == 0:  # in OpenAI's shape that is the likeliest token alone
        sampling["top_p"] = LEAST_TOP_P
    count = fields.integer("n", 1, 1, served.most_images)
    seed = fields.integer("seed")
    stops = _stops(fields.take("stop"))
    stream = fields.flag("stream")
    options = Fields(fields.take("stream_options", {}), where="stream_options")
    with_usage = options.flag("include_usage")
    options.ignore("include_obfuscation")
    options.done()
    # Without tools the model chooses none, and frameworks send "auto" beside an empty list.
    idle_choice = "auto" if fields.peek("tool_choice") == "auto" else "none"
    fields.unsupported(
        {
            "frequency_penalty": (0, "tokens are chosen as the model says"),
            "presence_penalty": (0, "tokens are chosen as the model says"),
            "logit_bias": ({}, "tokens are chosen as the model says"),
            "logprobs": (False, "they are not recorded"),
            "top_logprobs": (0, "they are not recorded"),
            "tools": ([], "the model calls no tools"),
            "tool_choice": (idle_choice, "the model calls no tools"),
            "functions": ([], "the model calls no functions"),
            "function_call": ("none", "the model calls no functions"),
            "reasoning_effort": ("none", "the model does not reason"),
            "verbosity": ("medium", "answers are as long as the model writes them"),
            "prediction": (None, "the model predicts from the messages alone"),
            "web_search_options": (None, "this server fetches nothing"),
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
    instructions: list[str] = []  # of the system, until the user's first words
    left, role = LONGEST_CONVERSATION, ""
    config = served.loaded.model.config
    pictures, most_pictures = 0, config.max_position_embeddings // config.patches
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        fields = Fields(message, where=where)
        role = fields.choice("role", ("system", "developer", "user", "assistant"), "")
        content = fields.take("content", "")
        if role == "assistant":
            content = _answered(content, fields, where)
        for part in _parts(content, where, served):
            if isinstance(part, str):
                left -= len(part)
                if left < 0:
                    raise Refused(
                        f"the messages are longer than {LONGEST_CONVERSATION} characters",
                        where=where,
                        code="string_above_max_length",
                    )
            else:
                pictures += 1
                if pictures > most_pictures:  # before the next is read and held in memory
                    raise Refused(
                        f"the conversation has more than {most_pictures} pictures, and the model "
                        "has no room for them",
                        where="messages",
                        hint="leave out earlier pictures",
                    )
            if role in ("system", "developer"):
                if not isinstance(part, str):
                    raise Refused("the system shows no pictures", where=where)
                instructions.append(part)
                continue
            if role == "user" and instructions and isinstance(part, str):
                part = " ".join([*instructions, part])
                instructions = []
            kind = "text" if isinstance(part, str) else "image"
            segments.append(Segment(kind, "model" if role == "assistant" else "user", part))
    if role != "user":
        raise Refused("the last message must be the user's", where="messages")
    if not any(segment.role == "user" for segment in segments[-1:]):
        raise Refused("the last message is empty", where=f"messages[{len(messages) - 1}]")
    if instructions:  # the user has sent pictures alone
        segments.append(Segment("text", "user", " ".join(instructions)))
    return segments


def _answered(content: Any, fields: Fields, where: str) -> Any:
    """The content of an earlier answer, with the pictures that `ChatAnswer.message` puts beside it:
    clients send the message back as it came.
    """
    images, order = fields.take("images", []), fields.take("parts")
    if not isinstance(images, list):
        raise Refused("images must be a list", where=f"{where}.images")
    if not images:
        return content
    if order is None:
        texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return [*texts, *images] if isinstance(texts, list) else content
    if not isinstance(order, list):
        raise Refused("parts must be a list", where=f"{where}.parts")
    parts = []
    for number, part in enumerate(order):
        each = Fields(part, where=f"{where}.parts[{number}]")
        if each.take("type") == "image":
            parts.append(images[each.integer("index", 0, 0, len(images) - 1)])
        else:
            parts.append(part)
    return parts


def _parts(content: Any, where: str, served: Served) -> Iterator[str | UploadedPicture]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Refused("content must be text, or a list of parts", where=f"{where}.content")
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        fields = Fields(part, where=place)
        kind = fields.choice("type", ("text", "image_url"), "", "use text or image_url")
        if kind == "text":
            text = fields.text("text", "", LONGEST_CONVERSATION)
            if text.strip():
                yield text
            continue
        url = fields.take("image_url")
        url = url.get("url") if isinstance(url, Mapping) else url
        if not isinstance(url, str):
            raise Refused("image_url needs a url", where=place)
        yield read_picture(content_of_url(url, place), served.size, place)


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    texts = isinstance(stops, list) and all(isinstance(each, str) and each for each in stops)
    if not texts or len(stops) > MOST_STOPS:
        raise Refused(
            f"stop must be a text, or a list of at most {MOST_STOPS}, none of them empty",
            where="stop",
        )
    return tuple(stops)


def size_of_usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The numbers of tokens as chat answers have them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
