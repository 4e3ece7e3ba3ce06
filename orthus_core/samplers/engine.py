"""The backbone as the loop uses it: whole prompts first, then one token of every branch at a time.

    cache, hidden_RD = backbone.read(branches, capacity)
    hidden_RD = backbone.step(cache, embeds_RD, positions)

`generate.py` says what happens; this file makes it fast. Equal prompts are read once, however many
seeds draw from them, and so is a beginning that several prompts share. A long prompt is read in
parts, so that memory stays bounded. Keys and values are written in place. On a GPU the step is
recorded as a CUDA graph, which runs without Python between its kernels. None of this changes an
image.

Legend: N sequences, R branches, U branches read together, T tokens of a pass, S positions, C
    feature channels, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import Cache

from orthus_core.device import moved
from orthus_core.errors import CheckpointError
from orthus_core.model.config import PACKED_ATTENTION
from orthus_core.model.cpu_linear import FewRowLinears
from orthus_core.model.interleaved import InterleavedModel
from orthus_core.samplers.kv_cache import KVCache
from orthus_core.samplers.prefix_sharing import group_by_prefix, numbered, shared_prefix_lengths
from orthus_core.samplers.prompt import Branch

if TYPE_CHECKING:
    from orthus_core.samplers.cuda_graph import CUDAGraphCache

# Number of tokens, of all prompts together, that one pass reads: the activations of a 7B's layer
# then stay below half a GB.
TOKENS_AT_ONCE = 2048
# A recorded step attends to a multiple of this many positions, so few lengths need a recording.
RECORDED_WIDTH = 128


class Backbone:
    """Runs the backbone of a model for the loop.

    Args:
        model: Model with the backbone.
        records: Whether steps are recorded as CUDA graphs; by default if one GPU holds all layers.

    Raises: CheckpointError when the model's attention implementation takes no mask.
    """

    def __init__(self, model: InterleavedModel, *, records: bool | None = None) -> None:
        attention = model.config._attn_implementation
        if attention not in ("sdpa", "eager", PACKED_ATTENTION):
            raise CheckpointError(
                f"drawing needs an attention mask, and {attention} takes none",
                where="attn_implementation",
                hint='open the model with "sdpa", whose kernels are as fast',
            )
        self.model = model
        # A GPU's kernels would convert a boolean mask in each layer.
        self._adds_mask = attention == "eager" or model.device.type == "cuda"
        on_one_gpu = {parameter.device.type for parameter in model.model.layers.parameters()}
        if records is None:
            records = on_one_gpu == {"cuda"} and not _is_spread(model)
        self._recordings = _graph_cache() if records else None
        self._embeddings = _graph_cache() if records else None
        self._products = FewRowLinears(model.model.layers)

    def read(self, branches: Sequence[Branch], capacity: int) -> tuple[KVCache, Tensor]:
        """Reads branches from their beginnings.

        Args:
            branches: Branches to read; equal ones are read once.
            capacity: Positions of the cache, at least as many as the longest branch has tokens.

        Returns: The cache, and the hidden state of each branch's last token, [R, D].
        """
        # 1. Each different text once, the longest first: those that reach a position come first.
        image_id = cast(int, self.model.config.image_token_id)
        texts = numbered(branches, image_id)
        owners = dict(zip(texts, branches, strict=True))
        different = sorted(owners, key=len, reverse=True)
        embedded = {text: self._embed(owners[text]) for text in different}
        cache = KVCache(len(self.model.model.layers), 1, len(different[0]))
        rows, last_D = dict.fromkeys(different, 0), {}
        # 2. Up to each length at which texts part, those that are equal so far share one row.
        for first, until in pairwise([0, *shared_prefix_lengths(different), len(different[0])]):
            groups = group_by_prefix(different, until)
            leaders = [group[0] for group in groups]
            cache.reorder([rows[leader] for leader in leaders], cache.capacity)
            rows = {text: row for row, group in enumerate(groups) for text in group}
            # 3. As many tokens at a time as TOKENS_AT_ONCE allows.
            part = max(1, TOKENS_AT_ONCE // len(leaders))
            for start in range(first, until, part):
                end = min(start + part, until)
                reading = [embedded[leader] for leader in leaders if len(leader) > start]
                hidden_UTD = self._read_part(cache, reading, start, end)
                for text in different:
                    if start < len(text) <= end:
                        last_D[text] = hidden_UTD[rows[text], len(text) - 1 - start].clone()
        # 4. Every branch gets its own copy.
        cache.reorder([rows[text] for text in texts], capacity)
        self.forget()
        return cache, torch.stack([last_D[text] for text in texts])

    def step(self, cache: KVCache, embeds_RD: Tensor, positions: Sequence[int]) -> Tensor:
        """Reads one token of every branch in one pass: its hidden state, [R, D].

        Args:
            cache: Cache of these branches; the pass writes to it.
            embeds_RD: Input embeddings of the tokens.
            positions: Position of each token; it attends to this one and all before it.
        """
        width = max(positions) + 1
        positions_R = moved(torch.tensor(positions), embeds_RD.device)
        if self._recordings is None:
            return self._step(cache, width, embeds_RD, positions_R)
        width = min(cache.capacity, -(-width // RECORDED_WIDTH) * RECORDED_WIDTH)

        def step(embeds_RD: Tensor, positions_R: Tensor) -> Tensor:
            return self._step(cache, width, embeds_RD, positions_R)

        return self._recordings(width, step, embeds_RD, positions_R)

    def embed(self, newest: Sequence[int | Tensor]) -> Tensor:
        """Input embeddings of each sequence's newest token or feature [C]: [N, D].

        Each is embedded by itself. Matrix products round differently at different batch sizes, and
        a sharp softmax over codes magnifies the difference.
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
        """Drops all recordings; call it when the cache has been reordered."""
        if self._recordings is not None:
            self._recordings = _graph_cache()

    def _step(self, cache: KVCache, width: int, embeds_RD: Tensor, positions_R: Tensor) -> Tensor:
        """The step as a function of tensors only, so that it can be recorded."""
        return self._pass(cache, width, embeds_RD.unsqueeze(1), positions_R.unsqueeze(1))[:, 0]

    def _read_part(
        self, cache: KVCache, embedded: Sequence[Tensor], first: int, until: int
    ) -> Tensor:
        """Reads tokens `first` to `until` of the first branches: hidden states [U, T, D].

        Shorter branches are padded with zeros at positions that their next tokens overwrite.
        """
        parts = [stream_SD[first:until] for stream_SD in embedded]
        embeds_UTD = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        positions_T = torch.arange(first, first + embeds_UTD.shape[1], device=embeds_UTD.device)
        positions_UT = positions_T.expand(len(parts), -1)
        return self._pass(cache, first + embeds_UTD.shape[1], embeds_UTD, positions_UT)

    def _pass(self, cache: KVCache, width: int, embeds_RTD: Tensor, positions_RT: Tensor) -> Tensor:
        cache.set_positions(positions_RT, width)
        with self._products.faster():
            output = self.model.run_backbone(
                inputs_embeds=embeds_RTD,
                attention_mask=self._mask(positions_RT, width, embeds_RTD.dtype),
                position_ids=positions_RT,
                past_key_values=cast(Cache, cache),
                use_cache=True,
            )
        return output.hidden_BSD

    def _mask(self, positions_RT: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """Mask by which each token attends to its own position and all before it: [R, 1, T, width].

        It is boolean, or added to the scores.
        """
        slots_S = torch.arange(width, device=positions_RT.device)
        seen_R1TS = (slots_S <= positions_RT.unsqueeze(-1)).unsqueeze(1)
        if not self._adds_mask:
            return seen_R1TS
        unseen = torch.finfo(dtype).min
        return torch.zeros_like(seen_R1TS, dtype=dtype).masked_fill(~seen_R1TS, unseen)

    def _embed_patches(self, features_NC: Tensor) -> Tensor:
        def embed(features_NC: Tensor) -> Tensor:
            return torch.cat(
                [self.model.embed_features(each_1C) for each_1C in features_NC.split(1)]
            )

        if self._embeddings is None:
            return embed(features_NC)
        return self._embeddings(None, embed, features_NC)

    def _embed(self, branch: Branch) -> Tensor:
        """Input embeddings of one branch, by itself (see `embed`): [S, D]."""
        ids_1S = torch.tensor([branch.ids], device=self.model.device)
        features_NC = branch.features_NC
        if features_NC is not None:
            features_NC = features_NC.to(self.model.device)
        return self.model.embed(ids_1S, features_NC)[0]


def _graph_cache() -> CUDAGraphCache:
    # Imported where steps are recorded: a CPU does without.
    from orthus_core.samplers.cuda_graph import CUDAGraphCache

    return CUDAGraphCache()


def _is_spread(model: InterleavedModel) -> bool:
    """Whether the model's parts are on several devices, or are fetched when they are needed."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1
