"""What a head is distilled on: the hidden states that a model draws pictures of rows from, and the
pictures' features, recorded in one pass over the rows and kept in a file.

The rows are drawn as a user would draw them, with the guidance branches of the model's own
sampling. For some, each drawn patch is replaced by the true one before the model reads it, so that
the hidden states are those of teacher forcing; the others go on with what was drawn. The backbone
is not called again.

Legend: S pictures, P patches of each, R branches (guidance), N images drawn at once, D hidden, C
feature channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from orthus_core.atomic import staged_file
from orthus_core.data.document import Document
from orthus_core.data.pictures import Picture
from orthus_core.data.sources import Mixture
from orthus_core.device import moved
from orthus_core.errors import DataError
from orthus_core.events import PatchDone, Progress
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.samplers.generate import fitting_batch_size, prepare_batch, run_batch
from orthus_core.samplers.params import SamplingParams, Task
from orthus_core.samplers.patch_sampler import PatchSampler
from orthus_core.samplers.prompt import Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder

IDENTITY = "identity"
# Rows that are looked at for each that is wanted, before they are said not to be there.
TRIES = 50
# Pictures that are encoded at once.
ENCODED = 64


class HeadContexts(NamedTuple):
    """Contexts and features of whole pictures.

    Attributes:
        hidden_SPRD: Hidden states of all branches, one position before each patch.
        weights_SPR: Weights of the branches in each patch's guidance; 0 where there are fewer.
        features_SPC: Features of the pictures, as they were read.
    """

    hidden_SPRD: Tensor
    weights_SPR: Tensor
    features_SPC: Tensor

    @property
    def pictures(self) -> int:
        """S."""
        return len(self.weights_SPR)


class RowPrompt(NamedTuple):
    """What a row asks a model to draw.

    Attributes:
        task: Whether it is a picture of words, or a changed picture.
        prompt: The prompt.
        picture: The true picture.
    """

    task: Task
    prompt: Prompt
    picture: Picture


def row_prompts(
    rows: Mixture, builder: PromptBuilder, params: dict[Task, SamplingParams], wanted: int
) -> list[RowPrompt]:
    """The prompts of the first rows of words, or of pictures and words, whose answer is a picture.

    Raises:
        DataError: When there are none.
    """
    documents = (rows(number) for number in islice(count(), TRIES * wanted))
    found = (row_prompt(document, builder, params) for document in documents)
    prompts = [*islice((each for each in found if each is not None), wanted)]
    if not prompts:
        raise DataError(
            "no row is of words whose answer is a picture, so there is nothing to draw",
            where="data",
            hint="take rows of captions and pictures, or of edits",
        )
    return prompts


def row_prompt(
    document: Document, builder: PromptBuilder, params: dict[Task, SamplingParams]
) -> RowPrompt | None:
    """What a row asks for; None when that is no single picture."""
    if [turn.role for turn in document.turns] != ["user", "model"]:
        return None
    texts = [each.value for each in document.user if isinstance(each.value, str)]
    shown = [each.value for each in document.user if not isinstance(each.value, str)]
    drawn = [each.value for each in document.model if not isinstance(each.value, str)]
    if len(texts) != 1 or len(drawn) != 1:
        return None
    if not shown:
        return RowPrompt("picture", builder.picture(texts[0], params["picture"]), drawn[0])
    return RowPrompt("edit", builder.edit(shown, texts[0], params["edit"]), drawn[0])


@dataclass
class HeadRecorder:
    """A patch sampler that keeps all contexts, and replaces patches of some pictures by true ones.

    The noise of a row of a batch says which picture it draws: no two pictures have the same noise.

    Attributes:
        sampler: Draws the patches.
        noise_SPC: Noise of each picture's patches.
        true_SPC: True features of the pictures.
        forced_S: Whether a picture's patches are replaced.
    """

    sampler: PatchSampler
    noise_SPC: Tensor
    true_SPC: Tensor
    forced_S: Tensor

    def __post_init__(self) -> None:
        self._place_of = {
            patch_C.numpy().tobytes(): (picture, place)
            for picture, patches_PC in enumerate(self.noise_SPC)
            for place, patch_C in enumerate(patches_PC)
        }
        # Hidden states, weights and feature of each patch of each picture.
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def noise(self, seed: int) -> Iterator[Tensor]:
        """The randomness of patch after patch, as the sampler gives it."""
        return self.sampler.noise(seed)

    def draw(
        self,
        hidden_RD: Tensor,
        noise_NX: Tensor,
        mix_NR: Tensor,
        drawn_N: Sequence[int] | None = None,
    ) -> Tensor:
        """The next feature of each image: fp32 [N, C]."""
        features_NC = self.sampler.draw(hidden_RD, noise_NX, mix_NR, drawn_N).clone()
        for row, noise_X in enumerate(noise_NX):
            picture, place = self._place_of[noise_X.numpy().tobytes()]
            if self.forced_S[picture]:
                features_NC[row] = self.true_SPC[picture, place].to(features_NC)
            branches = mix_NR[row].nonzero().flatten()
            self._kept[picture, place] = (
                hidden_RD[moved(branches, hidden_RD.device)].cpu(),
                mix_NR[row, branches],
                features_NC[row].cpu(),
            )
        return features_NC

    def recorded(self, branches: int) -> HeadContexts:
        """The contexts of all patches with that many branches: where a patch has fewer, its first
        one is repeated with weight 0.
        """
        patches = [
            (
                torch.cat([hidden_RD, hidden_RD[:1].expand(branches - len(hidden_RD), -1)]),
                F.pad(weights_R, (0, branches - len(weights_R))),
                feature_C,
            )
            for _, (hidden_RD, weights_R, feature_C) in sorted(
                self._kept.items(), key=itemgetter(0)
            )
        ]
        size = self.noise_SPC.shape[:2]
        return HeadContexts(
            *(torch.stack(each).unflatten(0, size) for each in zip(*patches, strict=True))
        )


@torch.no_grad()
def record_rows(
    model: OrthusForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mixture,
    params: dict[Task, SamplingParams],
    wanted: int,
    *,
    self_drawn: float,
    seed: int,
) -> Iterator[Progress | HeadContexts]:
    """Draws the pictures of `wanted` rows and keeps the contexts of every patch.

    Args:
        params: How pictures and edits are drawn.
        self_drawn: Share of the pictures that the model goes on with as it drew them.
        seed: Seed of the noise, and of which pictures these are.

    Yields: Progress, and at last the contexts.

    Raises:
        DataError: As `row_prompts`.
        PromptError, CheckpointError: As `generate`.
    """
    builder = PromptBuilder(model, tokenizer)
    asked = row_prompts(rows, builder, params, wanted)
    branches = max(len(each.prompt.guidance.weights) for each in asked)
    random, parts, done = torch.Generator().manual_seed(seed), [], 0
    for task in params:
        of_task = [each for each in asked if each.task == task]
        if not of_task:
            continue
        size = len(of_task), model.config.patches, model.config.feature_channels
        noise_SPC = torch.randn(size, generator=random)
        forced_S = torch.rand(len(of_task), generator=random) >= self_drawn
        true_SPC = torch.cat(
            [
                builder.features([each.picture for each in of_task[at : at + ENCODED]]).cpu()
                for at in range(0, len(of_task), ENCODED)
            ]
        )
        prompts = [
            each.prompt._replace(noise=iter(noise_PC))
            for each, noise_PC in zip(of_task, noise_SPC, strict=True)
        ]
        job, sequences = prepare_batch(model, prompts, params[task])
        assert job.patch_sampler is not None, "the rows ask for images"
        recorder = HeadRecorder(job.patch_sampler, noise_SPC, true_SPC, forced_S)
        together = fitting_batch_size(job, sequences)
        with job.decoder:
            while sequences:
                part, sequences = sequences[:together], sequences[together:]
                for event in run_batch(job._replace(patch_sampler=recorder), part):
                    if isinstance(event, PatchDone):
                        done += 1
                        total = len(asked) * model.config.patches
                        yield Progress("contexts", done, total, "patches")
        parts.append(recorder.recorded(branches))
    yield HeadContexts(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def save_contexts(contexts: HeadContexts, path: Path, identity: str) -> None:
    """Writes contexts, with what tells them from others.

    Raises:
        OutputError: When they cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in contexts._asdict().items()}
    with staged_file(path, parents=True) as staged:
        save_file(tensors, staged, metadata={IDENTITY: identity})


def saved_contexts(path: Path, identity: str) -> HeadContexts | None:
    """The contexts of a file; None when there is none, or it is of others."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(IDENTITY) != identity:
                return None
            return HeadContexts(*(file.get_tensor(name) for name in HeadContexts._fields))
    except Exception:  # a damaged file is made again
        return None
