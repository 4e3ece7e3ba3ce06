"""Training of low-rank adapters (2106.09685) by peft, in place of the model's own matrices.

peft puts its layers around those of the backbone; the model's own weights stay as they are, and a
saved state holds only what moves. The result is a folder that peft reads as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from orthus_core.atomic import real_path
from orthus_core.atomic_folder import staged_folder
from orthus_core.checkpoint.adapters import BASE, BASE_NAME, GUIDANCE, PREFIX, SAMPLING
from orthus_core.checkpoint.headers import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from orthus_core.data.known_words import VOCABULARY, WORDS
from orthus_core.errors import TrainingError
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe.training import LoraRecipe
from orthus_core.train.freeze import Objective, mark_rows
from orthus_core.train.metrics import METRICS
from orthus_core.train.sharding import ADAPTERS
from orthus_core.user_files import user_path

HEAD = "mlp_head"
# Files of earlier adapters that new ones in their folder replace.
ADAPTER_FILES = ("adapter_*", "README.md", "recipe.toml", "run.json", METRICS, VOCABULARY, WORDS)


def add_lora(
    model: OrthusForConditionalGeneration, recipe: LoraRecipe, objective: Objective = "both"
) -> list[nn.Parameter]:
    """Put adapters into a model, in place, and return what is to be trained: these, and the parts
    that the recipe has trained whole. Their first weights come from torch's global generator.

    Raises:
        TrainingError: When peft is missing, or a target is no layer of the backbone.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TrainingError(
            f"adapters are trained with peft, which does not import: {error}",
            where="lora.rank",
            hint="pip install 'orthus-kit[lora]', or set lora.rank = 0 to train the whole model",
        ) from error
    known = {
        name.rpartition(".")[2]: None
        for name, module in model.model.layers.named_modules()
        if isinstance(module, nn.Linear)
    }
    if unknown := [target for target in recipe.targets if target not in known]:
        raise TrainingError(
            f"the layers of the backbone have no projection {unknown[0]!r}",
            where="lora.targets",
            hint=f"they have {', '.join(known)}",
        )
    draws = objective != "understanding"
    patterns = [rf"model\.layers\..+\.({'|'.join(map(re.escape, recipe.targets))})"]
    if recipe.head == "lora" and draws:
        patterns.append(rf"{HEAD}\..+")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    pattern = "|".join(patterns)
    whole = [HEAD] if recipe.head == "full" and draws else []
    if recipe.embeddings:
        tables = ("embed_tokens", "codebook_in", "feature_in")
        whole += [name for name in tables if hasattr(model.model, name)]
        whole += ["lm_head"] if objective != "generation" else []
        mark_rows(model.model, model.model.embed_tokens, model.model.codebook_in, model.lm_head)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=recipe.dropout,
        target_modules=[name for name in linear if re.fullmatch(pattern, name)],
    )
    inject_adapter_in_model(config, model, ADAPTERS)
    config.modules_to_save = whole or None
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        is_whole = any(part in parts for part in whole) and "vqmodel" not in parts
        parameter.requires_grad_(is_whole or ".lora_" in name)
    return [p for p in model.parameters() if p.requires_grad]


@contextmanager
def merged_layers(model: nn.Module) -> Iterator[None]:
    """Replace each layer with adapters by a plain one with their sum, and hold frozen layers in
    fp32, for as long as this lasts: the engine that draws reads the layers' weights themselves, and
    in one precision.
    """
    places = [
        (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], module)
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    ]
    for parent, name, module in places:
        base: nn.Linear = module.base_layer  # type: ignore[assignment]
        plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
        total = (base.weight + module.get_delta_weight(ADAPTERS)).detach()  # type: ignore[operator]
        plain.weight, plain.bias = nn.Parameter(total, requires_grad=False), base.bias
        setattr(parent, name, plain)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    halves = [(p, p.data) for layer in layers for p in layer.parameters() if p.itemsize < 4]
    for parameter, data in halves:
        parameter.data = data.float()
    try:
        yield
    finally:
        for parameter, data in halves:
            parameter.data = data
        for parent, name, module in places:
            setattr(parent, name, module)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the training has moved, by peft's names, on the CPU."""
    return {
        PREFIX + name.replace(f".{ADAPTERS}.", "."): parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def save_adapters(
    model: OrthusForConditionalGeneration,
    folder: str | Path,
    *,
    base: str,
    base_name: str,
    sampling: Mapping[str, Any],
    distilled_guidance: float | None = None,
    texts: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save the adapters of a model as a folder that is written completely or not at all.

    Args:
        model: Model with adapters from `add_lora`.
        folder: Folder to write.
        base, base_name: Fingerprint and name of the model that they were trained on.
        sampling: Sampling defaults that they bring.
        distilled_guidance: Guidance that the model draws with by itself once it has them.
        texts: Additional text files by name.
        overwrite: Whether existing adapters are replaced.

    Raises:
        OutputError: When the folder exists, cannot be written to, or the disk is full.
    """
    folder = user_path(folder)
    config = model.peft_config[ADAPTERS]  # type: ignore[index]
    config.base_model_name_or_path, config.inference_mode = base_name, True
    metadata = {"format": "pt", BASE: base, BASE_NAME: base_name, SAMPLING: json.dumps(sampling)}
    if distilled_guidance is not None:
        metadata[GUIDANCE] = json.dumps(distilled_guidance)
    with staged_folder(
        folder, mark=ADAPTER_CONFIG, replaces=ADAPTER_FILES, overwrite=overwrite
    ) as staged:
        save_file(adapter_tensors(model), staged / ADAPTER_WEIGHTS, metadata=metadata)
        config.save_pretrained(staged)
        card = adapter_card(
            real_path(folder).name, base_name, base, scales=distilled_guidance is None
        )
        for name, text in ({"README.md": card} | dict(texts or {})).items():
            (staged / name).write_text(text, encoding="utf-8")
    return folder


def adapter_card(name: str, base_name: str, base: str, *, scales: bool) -> str:
    """Markdown that describes adapters and their use; `scales`: whether part of their strength may
    be added.
    """
    half = f'orthus generate "a snowman" -m {base_name} --lora {name}:0.5 -o half.png'
    lines = [
        "---",
        "library_name: peft",
        "tags: [orthus, lora]",
        "---",
        "",
        f"# {name}",
        "",
        f"LoRA adapters of the Orthus model {base_name} (hash {base[:10]}).",
        "",
        "```bash",
        f'orthus generate "a snowman" -m {base_name} --lora {name} -o snowman.png',
        *([half] if scales else []),
        f"orthus merge {base_name} --lora {name} -o {name}-merged",
        "```",
        "",
    ]
    return "\n".join(lines)
