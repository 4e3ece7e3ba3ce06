"""Which parameters of a model a stage trains, and a check that the others did not change."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor, nn

from orthus_core.device import has_bf16
from orthus_core.errors import TrainingError
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.train.sharded_tensors import local, part_of, whole

Objective = Literal["both", "understanding", "generation"]


def only_image_parts(model: OrthusForConditionalGeneration) -> list[nn.Parameter]:
    """What `build-base` trains: the codes, the codes' rows of the embedding table, the diffusion
    head (2412.00127, 3.3).

    The table is one parameter that also holds the words: gradients of its other rows are set to
    zero, it has no weight decay, and AdamW trains it, so that a step leaves those rows unchanged to
    the last bit.
    """
    model.requires_grad_(False)
    model.mlp_head.requires_grad_(True)
    model.model.codebook_in.requires_grad_(True)
    if hasattr(model.model, "feature_in"):
        model.model.feature_in.requires_grad_(True)
    table_VD = model.model.embed_tokens.weight
    table_VD.requires_grad_(True)
    table_VD.no_decay = True  # type: ignore[attr-defined]
    # Muon would take the table as a map, and move all its rows at once.
    mark_rows(model.model, model.model.embed_tokens, model.model.codebook_in)
    rows_V = torch.zeros(len(table_VD), device=table_VD.device)
    rows_V[model.code_token_ids] = 1
    table_VD.moving_rows_V = rows_V  # type: ignore[attr-defined]
    hold_other_rows(table_VD)  # type: ignore[arg-type]
    return [p for p in model.parameters() if p.requires_grad]


def hold_other_rows(table_VD: nn.Parameter) -> None:
    """Have gradients of a table, or of a process's part of it, be zero in all rows but those that
    `moving_rows_V` marks with 1.
    """
    rows_V1 = part_of(table_VD.moving_rows_V, table_VD)[:, None]  # type: ignore[attr-defined]

    def hold(table_VD: Tensor) -> None:
        assert table_VD.grad is not None, "it has just been added to"
        local(table_VD.grad).mul_(rows_V1.to(table_VD.grad.dtype))

    table_VD.register_post_accumulate_grad_hook(hold)


def mark_rows(backbone: nn.Module, *tables: nn.Module) -> None:
    """Mark tables, whose rows are words or codes, and the norms of queries and keys, whose rows are
    heads: they do not map one vector to another; see `make_optimizers`.
    """
    norms = (m for name, m in backbone.named_modules() if name.endswith((".q_norm", ".k_norm")))
    for module in (*tables, *norms):
        for parameter in module.parameters():
            parameter.by_row = True  # type: ignore[attr-defined]


def all_but_autoencoder(
    model: OrthusForConditionalGeneration, objective: Objective = "both"
) -> list[nn.Parameter]:
    """What `posttrain` trains: the whole model without its autoencoder, and without the head whose
    loss is not used.
    """
    model.requires_grad_(True)
    model.model.vqmodel.requires_grad_(False)
    mark_rows(model.model, model.model.embed_tokens, model.model.codebook_in, model.lm_head)
    if objective == "understanding":
        model.mlp_head.requires_grad_(False)
    if objective == "generation":
        model.lm_head.requires_grad_(False)
    return [p for p in model.parameters() if p.requires_grad]


def hold_frozen_in_bf16(model: OrthusForConditionalGeneration, device: torch.device) -> int:
    """Convert the matrices that a training with bf16 products does not train to bf16, where those
    are fast; returns the bytes that are saved. On a CPU nothing is converted.

    A matrix in fp32 that a gradient passes through is held twice: autocast keeps its bf16 copy for
    the backward pass. Only those that bf16 holds exactly are converted, as those of a model stored
    in bf16, so no product changes.
    """
    if device.type == "cpu" or not has_bf16(device):
        return 0
    return convert_exact(model, torch.bfloat16)


@torch.no_grad()
def convert_exact(model: OrthusForConditionalGeneration, dtype: torch.dtype) -> int:
    """Convert the frozen linear layers that `dtype` holds exactly; returns the bytes it saves.

    Not the autoencoder, whose features are known by the precision of its weights, nor norms, which
    are small and not products.
    """
    saved = 0
    for layer in (model.lm_head, *model.model.layers.modules(), *model.mlp_head.modules()):
        if not isinstance(layer, nn.Linear) or any(p.requires_grad for p in layer.parameters()):
            continue
        for parameter in layer.parameters():
            converted = parameter.to(dtype)
            if torch.equal(converted.to(parameter.dtype), parameter):
                saved += parameter.nbytes - converted.nbytes
                parameter.data = converted
    return saved


def text_fingerprint(model: OrthusForConditionalGeneration) -> str:
    """A digest of every weight that text depends on: backbone, LM head, and the table without its
    image rows.
    """
    digest = hashlib.sha256()

    def add(tensor: Tensor) -> None:
        digest.update(
            whole(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )

    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("model.layers", "model.norm", "lm_head")):
            add(tensor)
    table_VD = whole(model.model.embed_tokens.weight.detach())
    words_V = torch.ones(len(table_VD), dtype=torch.bool, device=table_VD.device)
    words_V[model.code_token_ids] = False
    add(table_VD[words_V])
    return digest.hexdigest()


def check_text_untouched(before: str, model: OrthusForConditionalGeneration) -> None:
    """Check that no weight that text depends on has changed.

    Raises:
        TrainingError: When one has changed since `text_fingerprint` returned `before`.
    """
    if text_fingerprint(model) != before:
        raise TrainingError(
            "a weight that the text depends on has moved, which build-base must never do",
            where="backbone, LM head or word embeddings",
            hint="please report this with the recipe; the model was not saved",
        )
