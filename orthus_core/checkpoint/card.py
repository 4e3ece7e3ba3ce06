"""The README of a model folder, which a hub shows as the model's card."""

from __future__ import annotations

from typing import Any

from orthus_core.model.config import InterleavedConfig, OrthusConfig
from orthus_core.version import __version__

ORTHUS = (
    "An Orthus model ([2412.00127](https://arxiv.org/abs/2412.00127)): one causal transformer that "
    "reads and writes text tokens and continuous image features."
)
CHAMELEON = (
    "A discrete Chameleon ([2405.09818](https://arxiv.org/abs/2405.09818)): one causal transformer "
    "over the tokens of text and of image codes."
)


def model_card(config: InterleavedConfig, name: str) -> str:
    """Markdown that describes the model, its origin and its use.

    Args:
        config: The model's configuration; its `origin` records the model's history.
        name: Name of the folder.
    """
    origin = config.origin or {}
    vq = config.vq_config
    rows, columns = config.grid
    own = [f"| codes | {config.num_codes} |"]
    if isinstance(config, OrthusConfig):
        temperature = f"temperature {config.embedding_temperature:g}"
        own = [
            f"| vision embedding | {config.embedding}, {temperature} |",
            _head_line(config),
        ]
    lines = [
        "---",
        "library_name: orthus-kit",
        "pipeline_tag: any-to-any",
        f"tags: [{config.model_type}, text-to-image, image-to-text]",
        "---",
        "",
        f"# {name}",
        "",
        ORTHUS if isinstance(config, OrthusConfig) else CHAMELEON,
        "",
        "```bash",
        f'orthus generate "a snowman" -m {name} -o snowman.png',
        f"orthus info {name}",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| backbone | {config.num_hidden_layers} layers of width {config.hidden_size} |",
        f"| pictures | {vq.resolution}x{vq.resolution} pixels as {rows}x{columns} patches "
        f"of {config.feature_channels} channels |",
        *own,
        f"| pixel decoder | {'yes' if vq.has_decoder else 'missing'} |",
        *(f"| {key.replace('_', ' ')} | {value} |" for key, value in _plain(origin)),
        "",
        "Weights made from another model stay under that model's terms.",
        "",
    ]
    return "\n".join(lines)


def _head_line(config: OrthusConfig) -> str:
    blocks = f"{config.head_depth} blocks of width {config.head_width}"
    if config.denoises:
        return f"| diffusion head | {blocks}, predicts {config.prediction} |"
    return f"| regression head | {blocks if config.head_depth else 'one linear layer'} |"


def origin_of(command: str, source: InterleavedConfig, name: str) -> dict[str, Any]:
    """The origin of a model that a command makes from another one, with all that was made before.

    Args:
        command: Name of the command.
        source: Configuration of the model that it is made from.
        name: Name of that model's folder.
    """
    before = source.origin or {}
    lineage = list(before.get("lineage", []))
    if before:
        lineage.append(f"{before.get('made_by')} from {before.get('made_from')}")
    return {"made_by": f"orthus {command} {__version__}", "made_from": name, "lineage": lineage}


def _plain(origin: dict) -> list[tuple[str, object]]:
    """Entries of an origin that fit a table's cell."""
    return [(key, value) for key, value in origin.items() if isinstance(value, (str, int, float))]
