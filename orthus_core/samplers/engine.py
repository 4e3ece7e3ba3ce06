"""The backbone as the loop uses it: a prompt at once, then one token of every stream at a time.

    slots, hidden_RD = backbone.read(streams, room)
    hidden_RD = backbone.step(slots, embeds_RD, places)

This is the seam between the story (`interleave.py`) and what makes it fast. Each different prompt
is read once, however many seeds draw from it; a long one is read in parts, so that memory stays
bounded; keys and values are written in place; and on a GPU the step is recorded as a CUDA graph,
without Python between its kernels. None of it changes what is drawn.

Legend: N rows, R streams, U different ones among them, T tokens of a pass, S slots, C feature
    channels, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import Cache

from orthus_core.errors import CheckpointError
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.prompt import Stream
from orthus_core.samplers.recorded import Recordings
from orthus_core.samplers.slots import Slots

# Tokens of all prompts that one pass reads: the activations of a 7B's layer stay below half a GB.
TOKENS_AT_ONCE = 2048
# A recorded step looks at a multiple of so many slots, so that few lengths need a recording.
RECORDED_WIDTH = 128


class Backbone:
    """Reads for the loop.

    Args:
        model: Whose backbone it is.
        records: Whether steps go through a recording: by default on a GPU that holds all layers.

    Raises: CheckpointError when the model attends in a way that knows no mask.
    """

    def __init__(self, model: InterleavedModel, *, records: bool | None = None) -> None:
        attention = model.config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise CheckpointError(
                f"drawing masks what a stream may look at, and {attention} takes no mask",
                where="attn_implementation",
                hint='open the model with "sdpa", whose kernels are as fast',
            )
        self.model = model
        on_one_gpu = {parameter.device.type for parameter in model.model.layers.parameters()}
        self._records = on_one_gpu == {"cuda"} and not _is_spread(model)
        if records is not None:
            self._records = records
        self._recordings = Recordings()
        self._embeddings = Recordings()

    def read(self, streams: Sequence[Stream], room: int) -> tuple[Slots, Tensor]:
        """Reads streams from their beginnings.

        Args:
            streams: Those that are alike are read once.
            room: Slots each of them gets, at least as many as any has tokens.

        Returns: What they remember, and the hidden state of each one's last token, [R, D].
        """
        # 1. Each once, the longest first: a part of the prompts is then read by the first of them.
        different = _different(streams)
        different.sort(key=lambda stream: -len(stream.ids))
        lengths = [len(stream.ids) for stream in different]
        embedded = [self._embed(stream) for stream in different]
        slots = Slots(len(self.model.model.layers), len(different), lengths[0])
        # 2. As many tokens of all at a time as fit.
        last_U: dict[int, Tensor] = {}
        part = max(1, TOKENS_AT_ONCE // len(different))
        for first in range(0, lengths[0], part):
            reading = [n for n, length in enumerate(lengths) if length > first]
            until = min(first + part, lengths[0])
            hidden_UTD = self._read_part(slots, [embedded[n] for n in reading], first, until)
            for n in reading:
                if lengths[n] <= until:
                    last_U[n] = hidden_UTD[n, lengths[n] - 1 - first].clone()
        # 3. Every stream goes on from a copy of its own.
        origins = [
            next(n for n, known in enumerate(different) if stream.reads_as(known))
            for stream in streams
        ]
        slots.spread(origins, room)
        self.forget()
        return slots, torch.stack([last_U[n] for n in origins])

    def step(self, slots: Slots, embeds_RD: Tensor, places: Sequence[int]) -> Tensor:
        """One token of every stream, all in one pass: its hidden state, [R, D].

        Args:
            slots: Of these streams; written to.
            embeds_RD: The embedded tokens.
            places: The slot of each; it looks at that and all before it.
        """
        width = max(places) + 1
        places_R = torch.tensor(places, device=embeds_RD.device)
        if not self._records:
            return self._step(slots, width, embeds_RD, places_R)
        width = min(slots.room, -(-width // RECORDED_WIDTH) * RECORDED_WIDTH)

        def step(embeds_RD: Tensor, places_R: Tensor) -> Tensor:
            return self._step(slots, width, embeds_RD, places_R)

        return self._recordings(width, step, embeds_RD, places_R)

    def embed(self, newest: Sequence[int | Tensor]) -> Tensor:
        """Each row's newest token, or the feature [C] drawn in its place, as it is read: [N, D].

        One by one, since rounding depends on how many rows a product has, and a sharp softmax over
        codes magnifies it.
        """
        patches = [each for each in newest if isinstance(each, Tensor)]
        embedded = iter(self._embed_patches(torch.stack(patches)) if patches else ())
        return torch.stack(
            [
                next(embedded) if isinstance(each, Tensor) else self._embed(Stream((each,)))[0]
                for each in newest
            ]
        )

    def forget(self) -> None:
        """Drops what was recorded; to be called when slots have moved."""
        self._recordings = Recordings()

    def _step(self, slots: Slots, width: int, embeds_RD: Tensor, places_R: Tensor) -> Tensor:
        """The step as a function of tensors: the same kernels whatever their values."""
        return self._pass(slots, width, embeds_RD.unsqueeze(1), places_R.unsqueeze(1))[:, 0]

    def _read_part(
        self, slots: Slots, embedded: Sequence[Tensor], first: int, until: int
    ) -> Tensor:
        """Tokens `first` to `until` of the first few streams. Shorter ones end in nothing, where
        their next tokens will be."""
        parts = [stream_SD[first:until] for stream_SD in embedded]
        embeds_UTD = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        places_T = torch.arange(first, first + embeds_UTD.shape[1], device=embeds_UTD.device)
        places_UT = places_T.expand(len(parts), -1)
        return self._pass(slots, first + embeds_UTD.shape[1], embeds_UTD, places_UT)

    def _pass(self, slots: Slots, width: int, embeds_RTD: Tensor, places_RT: Tensor) -> Tensor:
        slots.aim(places_RT, width)
        output = self.model(
            inputs_embeds=embeds_RTD,
            attention_mask=self._mask(places_RT, width, embeds_RTD.dtype),
            position_ids=places_RT,
            past_key_values=cast(Cache, slots),
            use_cache=True,
        )
        return output.hidden_BSD

    def _mask(self, places_RT: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """Each token sees its own slot and all before it: [R, 1, T, width]."""
        slots_S = torch.arange(width, device=places_RT.device)
        seen_R1TS = (slots_S <= places_RT.unsqueeze(-1)).unsqueeze(1)
        if self.model.config._attn_implementation == "sdpa":
            return seen_R1TS
        unseen = torch.finfo(dtype).min
        return torch.zeros_like(seen_R1TS, dtype=dtype).masked_fill(~seen_R1TS, unseen)

    def _embed_patches(self, features_NC: Tensor) -> Tensor:
        def embed(features_NC: Tensor) -> Tensor:
            return torch.cat(
                [self.model.embed_features(each_1C) for each_1C in features_NC.split(1)]
            )

        if not self._records:
            return embed(features_NC)
        return self._embeddings(None, embed, features_NC)

    def _embed(self, stream: Stream) -> Tensor:
        """By itself, since rounding depends on how many rows a product has: [S, D]."""
        ids_1S = torch.tensor([stream.ids], device=self.model.device)
        features_NC = stream.features_NC
        if features_NC is not None:
            features_NC = features_NC.to(self.model.device)
        return self.model.embed(ids_1S, features_NC)[0]


def _different(streams: Sequence[Stream]) -> list[Stream]:
    kept: list[Stream] = []
    for stream in streams:
        if not any(stream.reads_as(known) for known in kept):
            kept.append(stream)
    return kept


def _is_spread(model: InterleavedModel) -> bool:
    """Whether parts of it live on several devices, or are fetched when they are needed."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1
