"""Storage of torch.distributed.checkpoint in safetensors: each process writes one file of the parts
of tensors that it holds, and any number of processes reads them.

torch's own storage writes a pickle beside its files, and its safetensors storage holds each file in
memory twice and passes over a missing file. Here, a file's header has the place of each part in its
whole tensor, and a record of all files has their sizes and checksums.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from orthus_core.checkpoint.headers import read_header, read_metadata
from orthus_core.checkpoint.lazy import TORCH_DTYPES, in_memory
from orthus_core.checkpoint.writer import write_tensors
from orthus_core.errors import CheckpointError

# Text in a file's header: offsets and whole shape of each of its tensors, which may be a part.
PARTS = "parts"
READ_BYTES = 1 << 24


class DamagedFile(Exception):
    """A file of a state is not what was written; the message names it."""


@dataclass(frozen=True)
class FileRecord:
    """A file as it was written.

    Attributes:
        name: Its name in the folder.
        bytes: Its size.
        crc32: Checksum of its content.
    """

    name: str
    bytes: int
    crc32: int


class CopiesPlanner(DefaultSavePlanner):
    """Plans by the live tensors, and takes their values from copies.

    Args:
        copies: This process's part of each tensor, on the CPU.
    """

    def __init__(self, copies: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.copies = copies

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self.copies[index.fqn]


class FilesWriter(StorageWriter):
    """Writes `part-K-of-N.safetensors` for each process K that has something to write.

    Args:
        begin: Makes the folder to write to; called on the first process only.
        end: Called on the first process with the folder and all files, once all are written.
    """

    def __init__(
        self, begin: Callable[[], Path], end: Callable[[Path, Sequence[FileRecord]], None]
    ) -> None:
        self.begin, self.end = begin, end
        self.folder: Path | None = None

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self.folder = self.begin()
        names = [f"part-{k}-of-{len(plans)}.safetensors" for k in range(1, len(plans) + 1)]
        return [
            replace(plan, storage_data=str(self.folder / name))
            for plan, name in zip(plans, names, strict=True)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written: Future[list[WriteResult]] = Future()
        if not plan.items:
            written.set_result([])
            return written
        tensors, parts = {}, {}
        for item in plan.items:
            name, data = item.index.fqn, item.tensor_data
            assert data is not None and name not in tensors, "one part of each tensor"
            value = planner.resolve_data(item)
            assert isinstance(value, torch.Tensor), "a state has nothing else"
            tensors[name] = in_memory(value, name)
            parts[name] = [list(data.chunk.offsets), list(data.size)]
        path = Path(plan.storage_data)
        with path.open("wb") as file:
            stream = Summed(file)
            for _ in write_tensors(stream, tensors, {PARTS: json.dumps(parts)}):
                pass
            file.flush()
            os.fsync(file.fileno())
        record = FileRecord(path.name, stream.bytes, stream.crc32)
        written.set_result(
            [WriteResult(item.index, tensors[item.index.fqn].bytes, record) for item in plan.items]
        )
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        assert self.folder is not None, "the first process has made it"
        files = dict.fromkeys(result.storage_data for part in results for result in part)
        self.end(self.folder, list(files))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class Summed:
    """A stream that counts what is written to it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.bytes = self.crc32 = 0

    def write(self, data: Any) -> None:
        self.stream.write(data)
        self.bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)


class FilesReader(StorageReader):
    """Reads what `FilesWriter` wrote.

    Args:
        folder: The folder.
        files: Records of its files.
    """

    def __init__(self, folder: Path, files: Sequence[FileRecord]) -> None:
        self.folder, self.files = folder, files
        self.places: dict[MetadataIndex, str] = {}

    def check(self, files: Sequence[FileRecord]) -> None:
        """Check that files are as they were written.

        Raises:
            DamagedFile: Names the first that is not.
            OSError: When one cannot be read.
        """
        for record in files:
            path = self.folder / record.name
            if not path.is_file():
                raise DamagedFile(f"{record.name} is missing")
            if (size := path.stat().st_size) != record.bytes:
                raise DamagedFile(f"{record.name} has {size} of its {record.bytes} bytes")
            crc32 = 0
            with path.open("rb") as stream:
                while data := stream.read(READ_BYTES):
                    crc32 = zlib.crc32(data, crc32)
            if crc32 != record.crc32:
                raise DamagedFile(f"{record.name} is not the file that was written")

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata(state_dict_metadata=dict(self.tensors()), storage_data=self.places)

    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """Whole shapes and parts of all tensors, by name.

        Raises:
            DamagedFile: When a file is missing, or its header does not read.
        """
        found: dict[str, TensorStorageMetadata] = {}
        self.places.clear()
        for record in self.files:
            try:
                headers = read_header(self.folder / record.name)
                parts = json.loads(read_metadata(self.folder / record.name)[PARTS])
            except (CheckpointError, KeyError, ValueError) as error:
                raise DamagedFile(f"{record.name} does not read") from error
            for name, header in headers.items():
                offsets, whole = map(torch.Size, parts[name])
                properties = TensorProperties(dtype=TORCH_DTYPES[header.dtype])
                stored = found.setdefault(name, TensorStorageMetadata(properties, whole, []))
                stored.chunks.append(ChunkStorageMetadata(offsets, torch.Size(header.shape)))
                self.places[MetadataIndex(name, offsets)] = record.name
        return found

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        wanted: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            wanted.setdefault(self.places[item.storage_index], []).append(item)
        for name, items in wanted.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for item in items:
                    target = planner.resolve_tensor(item)
                    target.copy_(read_box(file, item))
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def read_box(file: Any, item: ReadItem) -> torch.Tensor:
    """The box of a stored tensor that an item of a plan wants."""
    name = item.storage_index.fqn
    places = zip(item.storage_offsets, item.lengths, strict=True)
    box = tuple(slice(begin, begin + length) for begin, length in places)
    return file.get_slice(name)[box] if box else file.get_tensor(name)


def as_records(found: Any) -> list[FileRecord]:
    """The records of files as JSON holds them.

    Raises:
        TypeError, ValueError: When they are none, or name a file outside of the folder.
    """
    records = [FileRecord(**each) for each in found]
    for record in records:
        if Path(record.name).name != record.name:
            raise ValueError(f"{record.name} lies outside of the folder")
    return records


def as_json(files: Sequence[FileRecord]) -> list[dict[str, Any]]:
    return [asdict(file) for file in files]
