"""Convert a Chameleon to an Orthus, streaming from file to file.

The backbone, its vocabulary and the autoencoder are kept. The codebook is copied into the soft
embedding's own codes, and an untrained head for image features is added with the initialisation
that training expects. The result is verified against the source before it is kept (2412.00127,
section 3.3: the base model starts as the Chameleon it is built from).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from orthus_core.atomic import real_path
from orthus_core.atomic_folder import check_folder, staged_folder
from orthus_core.checkpoint import chameleon_hf, chameleon_meta, parameter_names
from orthus_core.checkpoint.card import model_card
from orthus_core.checkpoint.configuration import (
    check_vocabulary,
    has_decoder,
    orthus_config,
    released_fields,
)
from orthus_core.checkpoint.headers import CONFIG, MODEL_FILES, check_path, listed
from orthus_core.checkpoint.layout import (
    is_hugging_face,
    is_meta,
    read_json,
    tokenizer_vocabulary,
    vocabulary_in,
)
from orthus_core.checkpoint.lazy import LazyTensor, cast, in_memory, safetensors_folder
from orthus_core.checkpoint.parts import IMAGE_HEADS, Part, parts_of
from orthus_core.checkpoint.processor import picture_files
from orthus_core.checkpoint.skeleton import check_shapes, shapes_of, skeleton
from orthus_core.checkpoint.source import Source, vqgan_tensors
from orthus_core.checkpoint.verify import Proof, prove
from orthus_core.checkpoint.writer import write_weights
from orthus_core.device import DTYPES, limit_threads
from orthus_core.errors import CheckpointError
from orthus_core.events import Progress
from orthus_core.model.config import OrthusConfig
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.output_checks import check_room
from orthus_core.recipe import ConvertRecipe, as_table
from orthus_core.user_files import user_path
from orthus_core.version import __version__


@dataclass(frozen=True)
class Converted:
    """The last event of a conversion: its result.

    Attributes:
        folder: Folder of the new model.
        layout: Layout of the source.
        parts: Parts of the new model, in report order.
        has_decoder, has_tokenizer: Whether the new model can decode pixels, and read text.
        is_new: Whether the head for image features is new and untrained.
        proof: Result of the comparison with the source; None when the recipe disables it.
        write_seconds, check_seconds: Duration of writing and of verification.
    """

    folder: Path
    layout: str
    parts: tuple[Part, ...]
    has_decoder: bool
    has_tokenizer: bool
    is_new: bool
    proof: Proof | None
    write_seconds: float
    check_seconds: float

    @property
    def head(self) -> str:
        """The part that predicts image features."""
        return next(part.name for part in self.parts if part.name in IMAGE_HEADS)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


class ConversionPlan(NamedTuple):
    """What a conversion will write, and from which source."""

    source: Source
    config: OrthusConfig
    tensors: dict[str, LazyTensor]


def convert(
    folder: Path,
    output: Path,
    recipe: ConvertRecipe,
    *,
    vqgan: Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Iterator[Progress | Converted]:
    """Convert the checkpoint in `folder` to the Orthus folder `output`, yielding progress.

    Args:
        folder: Chameleon or Anole in Hugging Face's or Meta's layout, or an Orthus, released or
            ours.
        output: Folder to create; it appears once everything is written and verified.
        recipe: Settings of the head, embedding, precision, shard size and check.
        vqgan: A `vqgan.ckpt` with the pixel decoder that the source lacks.
        name: Name of the source in the new model's history; its folder's name by default.
        overwrite: Replace a model folder at `output`.

    Raises:
        CheckpointError: When the source is incomplete, damaged, unsafe or of an unsupported kind,
            or verification fails.
        OutputError: When `output` exists, cannot be written, or does not fit on the disk.
    """
    # 1. Read the headers, plan the new model, and check that it fits on the disk.
    limit_threads()
    output, vqgan = user_path(output), vqgan and user_path(vqgan)
    for path in (folder, output):
        check_path(path)
    check_folder(output, mark=CONFIG, overwrite=overwrite)
    source, config, tensors = plan(folder, recipe, vqgan=vqgan)
    check_room(output, sum(tensor.bytes for tensor in tensors.values()))

    with staged_folder(output, mark=CONFIG, replaces=MODEL_FILES, overwrite=overwrite) as staged:
        # 2. Write the weights, one tensor in memory at a time.
        began = time.monotonic()
        yield from write_weights(staged, tensors, recipe.shard_size_mb * 10**6)
        written = time.monotonic()

        # 3. Verify the files on disk.
        proof = None
        if recipe.check.codes:
            files = safetensors_folder(staged)
            proof = yield from prove(
                source, files, config, codes=recipe.check.codes, dtype=DTYPES.get(recipe.dtype)
            )
        checked = time.monotonic()

        # 4. Write everything else, the configuration last: without it the folder cannot be opened.
        config.origin = _origin(source, recipe, vqgan, name or folder.absolute().name, proof)
        for file in source.keep:
            (staged / file.name).write_bytes(file.read_bytes())
        texts = source.texts | _picture_files(source, config)
        texts |= {
            "recipe.json": json.dumps(as_table(recipe), indent=2) + "\n",
            "README.md": model_card(config, real_path(output).name),
        }
        for file_name, text in texts.items():
            (staged / file_name).write_text(text, encoding="utf-8")
        config.save_pretrained(staged)

    yield Converted(
        folder=output,
        layout=source.layout,
        parts=tuple(parts_of(tensors)),
        has_decoder=source.has_decoder,
        has_tokenizer=(output / "tokenizer.json").is_file(),
        is_new=not source.is_orthus,
        proof=proof,
        write_seconds=written - began,
        check_seconds=checked - written,
    )


def plan(folder: Path, recipe: ConvertRecipe, *, vqgan: Path | None = None) -> ConversionPlan:
    """Plan every tensor of the new model and check its shape before reading any.

    Raises:
        CheckpointError: As for `convert`, except for errors that only reading the weights reveals.
    """
    source = open_source(folder)
    if vqgan is not None:
        source = _with_decoder(source, vqgan)
    config = plan_config(source, recipe)
    check_vocabulary(config, _tokenizer_of(source), str(folder / CONFIG))
    return ConversionPlan(source, config, plan_tensors(source, config, recipe))


def open_source(folder: Path) -> Source:
    """Open the checkpoint in a folder, whatever its layout.

    Raises:
        CheckpointError: When the folder holds no checkpoint that can be converted.
    """
    if not folder.is_dir():
        raise CheckpointError("there is no such folder", where=str(folder), hint="check the path")
    if is_hugging_face(folder):
        return chameleon_hf.open_folder(folder)
    if is_meta(folder):
        return chameleon_meta.open_folder(folder)
    raise CheckpointError(
        "there is no checkpoint here: neither config.json nor params.json with consolidated*.pth",
        where=str(folder),
        hint="give the folder of a Chameleon, Anole or Orthus",
    )


def plan_config(source: Source, recipe: ConvertRecipe) -> OrthusConfig:
    """The source's configuration, overridden by the recipe; an Orthus keeps its own values."""
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    chosen = {
        "image_head": recipe.head.kind,
        "head_width": recipe.head.width,
        "head_depth": recipe.head.depth,
        "embedding": recipe.embedding.kind,
        "embedding_temperature": recipe.embedding.temperature,
        "embedding_distance": recipe.embedding.distance,
        **asdict(recipe.diffusion),
        "sampling": asdict(recipe.sampling),
    }
    if source.is_orthus:
        stated = source.config.get("model_type") == "orthus"
        own = {name: source.config[name] for name in chosen if stated and name in source.config}
        chosen |= {"image_head": "diffusion"} | released_fields(shapes) | own
    if chosen["image_head"] == "mse":
        chosen["sampling"] = chosen["sampling"] | {"steps": 1}
    config = orthus_config(
        source.config, str(source.path), has_decoder=source.has_decoder, **chosen
    )
    config.tie_word_embeddings = False  # both are written out
    embeddings = source.tensors.get(parameter_names.EMBEDDINGS)
    config.dtype = DTYPES.get(recipe.dtype) or (embeddings.dtype if embeddings else torch.float32)
    return config


def plan_tensors(
    source: Source, config: OrthusConfig, recipe: ConvertRecipe
) -> dict[str, LazyTensor]:
    """Every tensor of the new model, from the source, its codebook, or a fresh head.

    Raises:
        CheckpointError: When the source lacks a tensor, has one of another shape, or one that has
            no place.
    """
    model = skeleton(config)
    shapes = shapes_of(model)
    available = dict(source.tensors)
    if not source.is_orthus:
        if parameter_names.VQ_CODEBOOK in available:
            available[parameter_names.CODEBOOK_IN] = available[parameter_names.VQ_CODEBOOK]
        assert isinstance(config.dtype, torch.dtype)
        available |= _fresh_parts(model, recipe.head.seed, config.dtype)
    found = {name: tensor.shape for name, tensor in available.items()}
    check_shapes(shapes, found, str(source.path))
    unknown = [name for name in available if name not in shapes]
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors of the source have no place in an Orthus: {listed(unknown)}",
            where=available[unknown[0]].source,
            hint="merge adapters into the weights first; other additions cannot be converted",
        )
    dtype = DTYPES.get(recipe.dtype)  # "auto" keeps each tensor's own
    return {name: cast(available[name], dtype or available[name].dtype, name) for name in shapes}


def _fresh_parts(
    model: OrthusForConditionalGeneration, seed: int, dtype: torch.dtype
) -> dict[str, LazyTensor]:
    """The head for image features, and a linear embedding if any, with their initial weights.

    No memory is allocated for other parts of the model.
    """
    modules = {parameter_names.IMAGE_HEAD: model.get_submodule("mlp_head")}
    if model.config.embedding == "linear":
        modules[parameter_names.LINEAR_EMBEDDING] = model.get_submodule("model.feature_in")
    tensors: dict[str, LazyTensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for prefix, module in modules.items():
            module.to_empty(device="cpu").apply(model._init_weights)
            for name, tensor in module.state_dict().items():
                tensors[prefix + name] = in_memory(tensor.to(dtype), f"seed {seed}")
    return tensors


def _with_decoder(source: Source, vqgan: Path) -> Source:
    """The source with the pixel decoder of a VQGAN, if that autoencoder matches the source's."""
    tensors = vqgan_tensors(vqgan)
    if parameter_names.VQ_CODEBOOK in source.tensors:
        theirs = tensors[parameter_names.VQ_CODEBOOK].read().float()
        ours = source.tensors[parameter_names.VQ_CODEBOOK].read().float()
        # A source in bf16 stores the codes rounded to 8 bits.
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=2**-7, atol=1e-6):
            raise CheckpointError(
                "this VQGAN has another codebook than the source, so its decoder would draw noise",
                where=str(vqgan),
                hint="take the vqgan.ckpt that comes with this model",
            )
    decoder = {name: tensor for name, tensor in tensors.items() if has_decoder([name])}
    return replace(source, tensors=tensors | source.tensors | decoder)


def _picture_files(source: Source, config: OrthusConfig) -> dict[str, str]:
    """Picture processor files, for a source that has a tokenizer but no such files."""
    kept = {file.name: file for file in source.keep}
    there = {*kept, *source.texts}
    if "tokenizer.json" not in there or "preprocessor_config.json" in there:
        return {}
    together = {}
    if "processor_config.json" in source.texts:
        together = json.loads(source.texts["processor_config.json"])
    elif "processor_config.json" in kept:
        together = read_json(kept["processor_config.json"])
    return {} if "image_processor" in together else picture_files(config)  # as transformers 5 saves


def _tokenizer_of(source: Source) -> dict[str, int] | None:
    if "tokenizer.json" in source.texts:
        return vocabulary_in(json.loads(source.texts["tokenizer.json"]))
    return tokenizer_vocabulary(source.path)


def _origin(
    source: Source, recipe: ConvertRecipe, vqgan: Path | None, name: str, proof: Proof | None
) -> dict[str, Any]:
    """The new model's origin, added to the history that the source records."""
    origin: dict[str, Any] = dict(source.config.get("origin") or {})
    origin |= {
        "made_from": name,
        "layout": source.layout,
        "made_by": f"orthus convert {__version__}",
    }
    if vqgan is not None:
        origin["pixel_decoder_from"] = vqgan.name
    if not source.is_orthus:
        origin["head_seed"] = recipe.head.seed
    if proof is not None:
        origin["largest_difference_to_source"] = proof.relative
    return origin
