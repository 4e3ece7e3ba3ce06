"""Read the headers of weight files without torch: names, shapes, dtypes and offsets.

A safetensors file is eight bytes of length, a JSON header, then the tensors' bytes one after
another (huggingface.co/docs/safetensors). A sharded folder adds an index that names each tensor's
file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orthus_core.checkpoint import parameter_names
from orthus_core.errors import CheckpointError

T = TypeVar("T")

CONFIG = "config.json"  # marks a folder as a model
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Files of an earlier model that a new one in its folder replaces: its reader would mix them with
# those of the new one. All other files stay.
MODEL_FILES = (
    "model*.safetensors",
    INDEX,
    "*config.json",
    "*tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "orthus_kit.py",
    "vocabulary.txt",
    "words.json",
    "README.md",
    "recipe.toml",
    "run.json",
    "recipe.json",
    "metrics.jsonl",
    "quality.json",
)
ADAPTER_CONFIG = "adapter_config.json"  # marks a folder as adapters, by peft's habit
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"

# Bytes of one element, for the dtypes a checkpoint of this family holds.
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the format's own limit


class TensorHeader(NamedTuple):
    """One tensor as its file's header describes it: bytes `start` to `stop` of `file`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def bytes(self) -> int:
        return self.stop - self.start

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


def read_header(file: Path) -> dict[str, TensorHeader]:
    """The tensors of one safetensors file, checked against the file's size.

    Raises:
        CheckpointError: When the file is missing, cut short, or not safetensors.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _LARGEST_HEADER):
                raise _damaged(file, f"its header does not fit into its {size} bytes")
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(
            f"cannot read a weight file: {error.strerror or error}",
            where=str(file),
            hint="check that the folder is complete and readable, and the disk",
        ) from error
    try:
        entries: dict[str, Any] = json.loads(text)
        entries.pop("__metadata__", None)
        begin = _LENGTH_BYTES + length
        headers = {name: _tensor_header(entry, file, begin) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(file, "its header does not read as safetensors") from error
    for name, header in headers.items():
        if header.bytes != header.numel * DTYPE_BYTES[header.dtype]:
            raise _damaged(file, f"{name} has {header.bytes} bytes for shape {list(header.shape)}")
    promised = max((header.stop for header in headers.values()), default=begin)
    if promised > size:
        raise _damaged(file, f"it has {size} of the {promised} bytes that its header promises")
    return headers


def read_metadata(file: Path) -> dict[str, str]:
    """The texts that a safetensors file holds beside its tensors; see `read_header` for errors."""
    read_header(file)  # so that what follows is known to read
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        found = json.loads(stream.read(length)).get("__metadata__") or {}
    return {str(name): str(text) for name, text in found.items()}


def read_folder(folder: Path) -> dict[str, TensorHeader]:
    """The tensors of a folder of safetensors, one file or sharded with an index.

    Raises:
        CheckpointError: When there are no weights, a shard is missing or damaged, or the index
            names a tensor that its file does not hold.
    """
    if (folder / WEIGHTS).is_file():
        return with_tied(read_header(folder / WEIGHTS), folder)
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    return gather_shards(folder / INDEX, read_header)


def with_tied(tensors: dict[str, T], folder: Path) -> dict[str, T]:
    """The tensors of a folder, with those that its configuration ties to others of them."""
    if parameter_names.LM_HEAD in tensors and parameter_names.EMBEDDINGS in tensors:
        return tensors
    from orthus_core.checkpoint.variants import tied

    return tied(tensors, folder)


def gather_shards(index: Path, read: Callable[[Path], dict[str, T]]) -> dict[str, T]:
    """The results of `read` for the shards of an index, by tensor name.

    Raises:
        CheckpointError: As for `read_index` and `read`, or when a shard lacks a tensor that the
            index lists.
    """
    file_of = read_index(index)
    shards = {file: read(index.parent / file) for file in sorted(set(file_of.values()))}
    found = {name: shards[file][name] for name, file in file_of.items() if name in shards[file]}
    found = with_tied(found, index.parent)
    absent = [name for name in file_of if name not in found]
    if absent:
        raise CheckpointError(
            f"{file_of[absent[0]]} does not hold {listed(absent)}, which the index says it does",
            where=str(index),
            hint="copy or download the folder again; index and shards must be of one save",
        )
    return found


def read_index(index: Path) -> dict[str, str]:
    """Map each tensor to its file; all of the files exist.

    Raises:
        CheckpointError: When the index cannot be read, points outside its folder, or a file is
            missing.
    """
    try:
        file_of = json.loads(index.read_bytes())["weight_map"]
        files = sorted(set(file_of.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        from orthus_core.wrong_content import true_cause

        damaged = CheckpointError(
            "the index of the weight files does not read",
            where=str(index),
            hint="copy or download it again",
        )
        raise true_cause(damaged, index, error) from error
    outside = [file for file in files if Path(file).name != file]
    if outside:
        raise CheckpointError(
            f"the index points outside its folder, to {outside[0]}", where=str(index)
        )
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} weight files are missing: {listed(missing)}",
            where=str(index.parent),
            hint=_unfinished_hint(index.parent)
            or "copy or download the folder again until every file of the index is there",
        )
    return file_of


def _tensor_header(entry: dict[str, Any], file: Path, begin: int) -> TensorHeader:
    start, stop = entry["data_offsets"]
    if entry["dtype"] not in DTYPE_BYTES or not 0 <= start <= stop:
        raise ValueError(entry)
    return TensorHeader(entry["dtype"], tuple(entry["shape"]), file, begin + start, begin + stop)


def _no_weights(folder: Path) -> CheckpointError:
    return CheckpointError(
        "there are no weights here",
        where=str(folder),
        hint=_unfinished_hint(folder)
        or f"a model folder holds {WEIGHTS}, or {INDEX} with its shards",
    )


def _unfinished_hint(folder: Path) -> str:
    """What to do about downloads into a folder that have not ended; empty without any."""
    from orthus_core.wrong_content import unfinished_downloads

    names = [file.name for file in unfinished_downloads(folder)]
    return f"a download into it has not ended ({listed(names)}): start it again" if names else ""


def _damaged(file: Path, how: str) -> CheckpointError:
    from orthus_core.wrong_content import true_cause

    damaged = CheckpointError(
        f"a weight file is damaged or cut short: {how}",
        where=str(file),
        hint="copy or download it again",
    )
    return true_cause(damaged, file)


def check_path(path: Path) -> None:
    """Check that weights can be read and written at a path: safetensors takes UTF-8 names alone.

    Raises:
        CheckpointError: When it holds other bytes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(
            "weights cannot be read or written there: the path holds bytes that are no UTF-8",
            where=str(path),
            hint="rename the file or folder with such a name, or choose another place",
        ) from error


def not_finite(names: Iterable[str], where: str) -> CheckpointError:
    """The error for tensors that hold NaN or infinity: the weights themselves are unusable."""
    return CheckpointError(
        f"the weights hold values that are no numbers (NaN or infinity): {listed(names)}",
        where=where,
        hint="no setting repairs that: take an earlier save of the model, or download it again",
    )


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
