"""The backbone as the loop uses it: a prompt at once, then one token of every stream at a time.

    slots, hidden_RD = backbone.read(streams, room)
    hidden_RD = backbone.step(slots, embeds_RD, places)

This is the seam between the story (`generate.py`) and what makes it fast. Each different prompt
is read once, however many seeds draw from it, and so is what several begin with; a long one is read
in parts, so that memory stays bounded; keys and values are written in place; and on a GPU the step
is recorded as a CUDA graph, without Python between its kernels. None of it changes what is drawn.

Legend: N rows, R streams, U those read side by side, T tokens of a pass, S slots, C feature
    channels, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from transformers import Cache

from orthus_core.errors import CheckpointError
from orthus_core.model.cpu_linear import FewRowLinears
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.cuda_graph import CUDAGraphCache
from orthus_core.samplers.kv_cache import KVCache
from orthus_core.samplers.prefix_sharing import group_by_prefix, numbered, shared_prefix_lengths
from orthus_core.samplers.prompt import Branch

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
        self._recordings = CUDAGraphCache()
        self._embeddings = CUDAGraphCache()
        self._products = FewRowLinears(model.model.layers)

    def read(self, branches: Sequence[Branch], capacity: int) -> tuple[KVCache, Tensor]:
        """Reads streams from their beginnings.

        Args:
            streams: Those that are alike are read once.
            room: Slots each of them gets, at least as many as any has tokens.

        Returns: What they remember, and the hidden state of each one's last token, [R, D].
        """
        # 1. Each different text once, the longest first: a part of them is then the first few.
        image_id = cast(int, self.model.config.image_token_id)
        texts = numbered(branches, image_id)
        owners = dict(zip(texts, branches, strict=True))
        different = sorted(owners, key=len, reverse=True)
        embedded = {text: self._embed(owners[text]) for text in different}
        slots = KVCache(len(self.model.model.layers), 1, len(different[0]))
        rows, last_D = dict.fromkeys(different, 0), {}
        # 2. From one parting to the next, those that have been alike so far are one row.
        for first, until in pairwise([0, *shared_prefix_lengths(different), len(different[0])]):
            groups = group_by_prefix(different, until)
            leaders = [group[0] for group in groups]
            slots.reorder([rows[leader] for leader in leaders], slots.capacity)
            rows = {text: row for row, group in enumerate(groups) for text in group}
            # 3. As many tokens of all at a time as fit.
            part = max(1, TOKENS_AT_ONCE // len(leaders))
            for start in range(first, until, part):
                end = min(start + part, until)
                reading = [embedded[leader] for leader in leaders if len(leader) > start]
                hidden_UTD = self._read_part(slots, reading, start, end)
                for text in different:
                    if start < len(text) <= end:
                        last_D[text] = hidden_UTD[rows[text], len(text) - 1 - start].clone()
        # 4. Every stream goes on from a copy of its own.
        slots.reorder([rows[text] for text in texts], capacity)
        self.forget()
        return slots, torch.stack([last_D[text] for text in texts])

    def step(self, slots: KVCache, embeds_RD: Tensor, positions: Sequence[int]) -> Tensor:
        """One token of every stream, all in one pass: its hidden state, [R, D].

        Args:
            slots: Of these streams; written to.
            embeds_RD: The embedded tokens.
            places: The slot of each; it looks at that and all before it.
        """
        width = max(positions) + 1
        positions_R = torch.tensor(positions, device=embeds_RD.device)
        if not self._records:
            return self._step(slots, width, embeds_RD, positions_R)
        width = min(slots.capacity, -(-width // RECORDED_WIDTH) * RECORDED_WIDTH)

        def step(embeds_RD: Tensor, positions_R: Tensor) -> Tensor:
            return self._step(slots, width, embeds_RD, positions_R)

        return self._recordings(width, step, embeds_RD, positions_R)

    def embed(self, newest: Sequence[int | Tensor]) -> Tensor:
        """Each row's newest token, or the feature [C] drawn in its place, as it is read: [N, D].

        One by one, since rounding depends on how many rows a product has, and a sharp softmax over
        codes magnifies it.
        """
        patches = [each for each in newest if isinstance(each, Tensor)]
        embedded = iter(self._embed_patches(torch.stack(patches)) if patches else ())
        return torch.stack(
            [
                next(embedded) if isinstance(each, Tensor) else self._embed(Branch((each,)))[0]
                for each in newest
            ]
        )

    def forget(self) -> None:
        """Drops what was recorded; to be called when slots have moved."""
        self._recordings = CUDAGraphCache()

    def _step(self, slots: KVCache, width: int, embeds_RD: Tensor, positions_R: Tensor) -> Tensor:
        """The step as a function of tensors: the same kernels whatever their values."""
        return self._pass(slots, width, embeds_RD.unsqueeze(1), positions_R.unsqueeze(1))[:, 0]

    def _read_part(
        self, slots: KVCache, embedded: Sequence[Tensor], first: int, until: int
    ) -> Tensor:
        """Tokens `first` to `until` of the first few streams. Shorter ones end in nothing, where
        their next tokens will be."""
        parts = [stream_SD[first:until] for stream_SD in embedded]
        embeds_UTD = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        positions_T = torch.arange(first, first + embeds_UTD.shape[1], device=embeds_UTD.device)
        positions_UT = positions_T.expand(len(parts), -1)
        return self._pass(slots, first + embeds_UTD.shape[1], embeds_UTD, positions_UT)

    def _pass(self, slots: KVCache, width: int, embeds_RTD: Tensor, positions_RT: Tensor) -> Tensor:
        slots.set_positions(positions_RT, width)
        with self._products.faster():
            output = self.model(
                inputs_embeds=embeds_RTD,
                attention_mask=self._mask(positions_RT, width, embeds_RTD.dtype),
                position_ids=positions_RT,
                past_key_values=cast(Cache, slots),
                use_cache=True,
            )
        return output.hidden_BSD

    def _mask(self, positions_RT: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """Each token sees its own slot and all before it: [R, 1, T, width]."""
        slots_S = torch.arange(width, device=positions_RT.device)
        seen_R1TS = (slots_S <= positions_RT.unsqueeze(-1)).unsqueeze(1)
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

    def _embed(self, branch: Branch) -> Tensor:
        """By itself, since rounding depends on how many rows a product has: [S, D]."""
        ids_1S = torch.tensor([branch.ids], device=self.model.device)
        features_NC = branch.features_NC
        if features_NC is not None:
            features_NC = features_NC.to(self.model.device)
        return self.model.embed(ids_1S, features_NC)[0]


def _is_spread(model: InterleavedModel) -> bool:
    """Whether parts of it live on several devices, or are fetched when they are needed."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1
