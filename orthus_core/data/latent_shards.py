"""Records of one size in shards on disk, each found by a digest; read through memory maps, written
by several processes at once.

    FOLDER/shard-1f0c23ab.bin    256 bytes of JSON (version, shape, dtype), then the records
    FOLDER/shard-1f0c23ab.keys   for each record 16 bytes of digest and 4 of checksum

A record counts when both files hold all of it. Each process appends to a shard of its own, which it
locks, so a process that is killed loses at most the record it was writing, and the next one appends
to the same shard. In memory are 28 bytes a record: the sorted digests, and where each record lies.

Legend: N records.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orthus_core.output_checks import free_disk

try:
    import fcntl
except ImportError:  # Windows has none; there each process begins a shard of its own
    fcntl = None

VERSION = 2
HEADER_BYTES = 256
SHARD_BYTES = 256 * 2**20
"""Size at which a shard is complete, and the next one begins."""

DIGEST_BYTES = 16
KEY = np.dtype([("first", "<u8"), ("second", "<u8"), ("check", "<u4")])
"""An entry of a `.keys` file: the digest as two numbers, and the CRC-32 of record and digest."""

MOST_RECENT = 16_384
"""New records that are found by a dictionary before they join the sorted index."""
MOST_MAPS = 128
"""Shards that are mapped at once; each takes a file descriptor."""
MOST_READ = 64 * 2**20
"""Bytes read through maps before their pages are given back: they count as the process's memory."""
LEFT_FREE = 2**30
"""Bytes of the disk that a process leaves free for others when it begins its second shard."""
MOST_IN_MEMORY = 256 * 2**20
"""Bytes of records that are kept in memory after the disk took no more."""
AROUND = 64 * 2**10
"""Bytes around what is read that Linux maps besides."""
BETWEEN_LOOKS = 1.0
"""Seconds between two looks for records of other processes."""


class Place(NamedTuple):
    """Where a record lies: the number of its shard, its number there, and its checksum."""

    shard: int
    number: int
    check: int


class DigestIndex:
    """The places of N digests."""

    def __init__(self) -> None:
        # Each in memory by itself: a search would copy a column of a structured array every time.
        self._first = np.empty(0, "<u8")
        self._second = np.empty(0, "<u8")
        self._check = np.empty(0, "<u4")
        self._at = np.empty(0, "<u8")  # shard and number, 32 bits each
        self._recent: dict[bytes, Place] = {}

    def __len__(self) -> int:
        """The number of different digests."""
        first, second = self._first, self._second
        repeated = int(((first[1:] == first[:-1]) & (second[1:] == second[:-1])).sum())
        new = sum(next(self._sorted(digest), None) is None for digest in self._recent)
        return len(first) - repeated + new

    def add(self, found: Sequence[tuple[int, int, np.ndarray]]) -> None:
        """Add records: the shard, the number of the first one, and the keys."""
        if len(self._recent) + sum(len(keys) for _, _, keys in found) > MOST_RECENT:
            self._sort_in(found)
            return
        for shard, start, keys in found:
            for number, key in enumerate(keys, start):
                place = Place(shard, number, int(key["check"]))
                self._recent[key.tobytes()[:DIGEST_BYTES]] = place

    def places(self, digest: bytes) -> Iterator[Place]:
        """Where records of this digest lie: several, if processes wrote it at the same time."""
        if digest in self._recent:
            yield self._recent[digest]
        yield from self._sorted(digest)

    def _sorted(self, digest: bytes) -> Iterator[Place]:
        first, second = np.frombuffer(digest, "<u8")
        at = int(self._first.searchsorted(first))
        while at < len(self._first) and self._first[at] == first:
            if self._second[at] == second:
                place = int(self._at[at])
                yield Place(place >> 32, place & 0xFFFFFFFF, int(self._check[at]))
            at += 1

    def _sort_in(self, found: Sequence[tuple[int, int, np.ndarray]]) -> None:
        digests = np.frombuffer(b"".join(self._recent), "<u8").reshape(-1, 2)
        recent = self._recent.values()
        keys = [keys for _, _, keys in found]
        first = np.concatenate([self._first, digests[:, 0], *(each["first"] for each in keys)])
        second = np.concatenate([self._second, digests[:, 1], *(each["second"] for each in keys)])
        checks = np.array([place.check for place in recent], "<u4")
        check = np.concatenate([self._check, checks, *(each["check"] for each in keys)])
        places = np.array([place.shard << 32 | place.number for place in recent], "<u8")
        numbers = (
            np.arange(start, start + len(keys), dtype="<u8") | np.uint64(shard << 32)
            for shard, start, keys in found
        )
        at = np.concatenate([self._at, places, *numbers])
        order = np.lexsort((second, first))
        self._first, self._second = first[order], second[order]
        self._check, self._at, self._recent = check[order], at[order], {}


class RecordShards:
    """Records of one shape in the shards of a folder.

    Where a record cannot be written it stays in memory, up to `MOST_IN_MEMORY`, and `failure` says
    why. Records that are damaged are not found.

    Args:
        folder: The folder, created with the first record; None keeps all records in memory.

    Attributes:
        failure: Why records are no longer written; None while they are.
        damage: What of the shards cannot be used, for messages.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.failure: OSError | None = None
        self.damage: list[str] = []
        self._index = DigestIndex()
        self._shards: list[Shard] = []
        self._by_name: dict[str, int] = {}
        self._in_memory: dict[bytes, np.ndarray] = {}
        self._in_memory_bytes = 0
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._read_bytes = 0
        self._bad: set[Place] = set()
        self._out: OpenShard | None = None
        self._looked = -BETWEEN_LOOKS
        self._look(first=True)

    def __len__(self) -> int:
        return len(self._index) + len(self._in_memory)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._in_memory or self._place(digest) is not None

    def get(self, digest: bytes) -> np.ndarray | None:
        """The record of a digest; None where there is none, or it is damaged."""
        if digest in self._in_memory:
            return self._in_memory[digest]
        while (place := self._place(digest)) is not None:
            record = self._record(place, digest)
            if record is not None:
                return record
        return None

    def look(self) -> None:
        """Find the records that other processes have written meanwhile, at most once in a while."""
        if time.monotonic() - self._looked > BETWEEN_LOOKS:
            self._look()

    def _look(self, *, first: bool = False) -> None:
        if self.folder is None:
            return
        self._looked = time.monotonic()
        found = []
        for path in sorted(self.folder.glob("shard-*.bin")):
            with suppress(OSError):
                if path.stem not in self._by_name:
                    self._add_shard(path)
                number = self._by_name[path.stem]
                shard = self._shards[number]
                start = shard.known
                keys, fault = shard.new_keys()
                if len(keys):
                    found.append((number, start, keys))
                if fault and first:
                    self.damage.append(f"{path}: {fault}")
        if found:
            self._index.add(found)

    def _add_shard(self, path: Path) -> None:
        self._by_name[path.stem] = len(self._shards)
        self._shards.append(Shard(path))

    def append(self, digests: Sequence[bytes], records: np.ndarray) -> None:
        """Add records [N, ...], which are written at once."""
        written = 0
        if self.folder is not None and self.failure is None:
            try:
                for digest, record in zip(digests, records, strict=True):
                    self._write(self.folder, digest, record)
                    written += 1
            except OSError as error:
                self.failure = error
        for digest, record in zip(digests[written:], records[written:], strict=True):
            bounded = self.folder is not None
            if not bounded or self._in_memory_bytes + record.nbytes <= MOST_IN_MEMORY:
                self._in_memory[digest] = record.copy()  # a view would keep its neighbours
                self._in_memory_bytes += record.nbytes

    def release(self) -> None:
        """Wait until the disk has all records, and let other processes append to the shard.

        Raises:
            OSError: When some were not written.
        """
        out, self._out = self._out, None
        if out is not None:
            out.close()
        if self.failure is not None:
            raise self.failure

    def _place(self, digest: bytes) -> Place | None:
        return next((p for p in self._index.places(digest) if p not in self._bad), None)

    def _record(self, place: Place, digest: bytes) -> np.ndarray | None:
        """A record that lies in a shard; None, and a word in `damage`, when it is damaged."""
        shard = self._shards[place.shard]
        length = shard.record_bytes
        start = HEADER_BYTES + place.number * length
        try:
            mapped = self._mapped(place.shard, start + length)
            content = mapped[start : start + length]  # a copy
        except (OSError, ValueError):
            content = b""
        if not shard.checked[place.number] and checksum(content, digest) != place.check:
            self._bad.add(place)
            self.damage.append(f"{shard.path}: record {place.number} is damaged")
            return None
        shard.checked[place.number] = 1
        self._read_bytes += length + AROUND
        if self._read_bytes > MOST_READ:
            self._give_pages_back()
        return np.frombuffer(content, shard.dtype).reshape(shard.shape)

    def _mapped(self, number: int, least: int) -> mmap.mmap:
        """The map of a shard, which reaches as far as the file or at least so many bytes."""
        mapped = self._maps.pop(number, None)
        if mapped is None or len(mapped) < least:
            with self._shards[number].path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps[number] = mapped
        if len(self._maps) > MOST_MAPS:
            self._maps.popitem(last=False)
        return mapped

    def _give_pages_back(self) -> None:
        self._read_bytes = 0
        if hasattr(mmap, "MADV_DONTNEED"):  # they stay in the system's cache
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    def _write(self, folder: Path, digest: bytes, record: np.ndarray) -> None:
        content = np.ascontiguousarray(record).tobytes()
        if self._out is not None and self._out.process != os.getpid():
            self._out = None  # a forked process begins a shard of its own
        if self._out is not None and not self._out.has_room(len(content)):
            out, self._out = self._out, None
            out.close()
            if free_disk(folder) < LEFT_FREE + SHARD_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        if self._out is None:
            self._out = self._begin(folder, record)
        key = np.zeros(1, KEY)
        key["first"], key["second"] = np.frombuffer(digest, "<u8")
        key["check"] = checksum(content, digest)
        self._out.append(content, key.tobytes())
        number = self._by_name[self._out.path.stem]
        shard = self._shards[number]
        start = shard.known
        keys, _ = shard.new_keys()
        self._index.add([(number, start, keys)])

    def _begin(self, folder: Path, record: np.ndarray) -> OpenShard:
        """A shard to append to: one that nobody writes to and that has room, or a new one."""
        folder.mkdir(parents=True, exist_ok=True)
        self._look()
        header = header_of(record.shape, record.dtype)
        for shard in self._shards:
            if shard.header == header and fcntl is not None:
                out = OpenShard.reopened(shard.path, record.nbytes)
                if out is not None:
                    return out
        out = OpenShard.begun(folder / f"shard-{uuid.uuid4().hex[:8]}.bin", header)
        self._add_shard(out.path)
        return out


class Shard:
    """One shard, as it is read.

    Attributes:
        known: Number of records that were found in it so far.
        checked: For each of them, 1 once its checksum was found to be right.
        header: Its first bytes; empty when they are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = 0
        self.checked = bytearray()
        self.header = b""
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype(np.uint8)
        self.record_bytes = 0

    def new_keys(self) -> tuple[np.ndarray, str]:
        """The keys of records that have come since, and what of the shard cannot be used."""
        if not self.header:
            fault = self._read_header()
            if fault:
                return np.empty(0, KEY), fault
        data = self.path.stat().st_size - HEADER_BYTES
        keys = self.path.with_suffix(".keys")
        listed = keys.stat().st_size if keys.is_file() else 0
        count = min(data // self.record_bytes, listed // KEY.itemsize)
        fault = ""
        torn = data > count * self.record_bytes or listed > count * KEY.itemsize
        if torn and not self._is_written_to():
            fault = f"it is cut short after {count} records"
        if count <= self.known:
            return np.empty(0, KEY), fault
        with keys.open("rb") as file:
            file.seek(self.known * KEY.itemsize)
            content = file.read((count - self.known) * KEY.itemsize)
        new = np.frombuffer(content[: len(content) // KEY.itemsize * KEY.itemsize], KEY)
        self.known += len(new)
        self.checked.extend(bytes(len(new)))
        return new, fault

    def _is_written_to(self) -> bool:
        """Whether a process holds its lock."""
        if fcntl is None:
            return True
        with self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def _read_header(self) -> str:
        with self.path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        try:
            about = json.loads(header)
            if about["version"] != VERSION:
                return f"it is of version {about['version']}, and not read"
            shape, dtype = tuple(map(int, about["shape"])), np.dtype(about["dtype"])
            if header != header_of(shape, dtype):
                raise ValueError("other bytes")
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            return "its beginning is damaged, and none of it is used"
        self.header, self.shape, self.dtype = header, shape, dtype
        self.record_bytes = record_bytes(shape, dtype)
        return ""


class OpenShard:
    """One shard, as its one writer has it.

    Args:
        path: The `.bin` file.
        data, keys: Descriptors of both files.
        ends: Their lengths without what is not whole.
    """

    def __init__(self, path: Path, data: int, keys: int, ends: tuple[int, int]) -> None:
        self.path = path
        self.process = os.getpid()
        self._files = data, keys
        self._ends = ends

    @classmethod
    def begun(cls, path: Path, header: bytes) -> OpenShard:
        """A new shard.

        Raises:
            OSError: When it cannot be written.
        """
        data = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        try:
            _lock(data)
            _write_all(data, header)
            keys = os.open(path.with_suffix(".keys"), os.O_RDWR | os.O_CREAT | BINARY, 0o666)
        except OSError:
            os.close(data)
            with suppress(OSError):
                path.unlink()
            raise
        return cls(path, data, keys, (HEADER_BYTES, 0))

    @classmethod
    def reopened(cls, path: Path, record: int) -> OpenShard | None:
        """A shard of an earlier process, cut to its whole records of `record` bytes; None when it
        is complete or another process writes to it.
        """
        if path.stat().st_size + record > SHARD_BYTES:
            return None
        data = os.open(path, os.O_RDWR | BINARY)
        try:
            if _lock(data):
                keys = os.open(path.with_suffix(".keys"), os.O_RDWR | os.O_CREAT | BINARY, 0o666)
                whole = (os.fstat(data).st_size - HEADER_BYTES) // record
                whole = min(whole, os.fstat(keys).st_size // KEY.itemsize)
                shard = cls(path, data, keys, (HEADER_BYTES + whole * record, whole * KEY.itemsize))
                shard._cut()
                return shard
        except OSError:
            os.close(data)
            raise
        os.close(data)
        return None

    def has_room(self, record: int) -> bool:
        return self._ends[0] + record <= SHARD_BYTES

    def append(self, content: bytes, key: bytes) -> None:
        """Write a record, and only then its key.

        Raises:
            OSError: When it cannot be written; what was written before stays.
        """
        data, keys = self._files
        try:
            _write_all(data, content)
            _write_all(keys, key)
        except OSError:
            with suppress(OSError):
                self._cut()
            raise
        self._ends = self._ends[0] + len(content), self._ends[1] + len(key)

    def close(self) -> None:
        """Wait for the disk, and give up the lock."""
        for file in self._files:
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _cut(self) -> None:
        for file, end in zip(self._files, self._ends, strict=True):
            os.ftruncate(file, end)
            os.lseek(file, end, os.SEEK_SET)


BINARY = getattr(os, "O_BINARY", 0)


def digest_of(key: str) -> bytes:
    """What a record knows its picture by."""
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()


def record_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Bytes of one record."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def disk_bytes(records: int, size: int) -> int:
    """Bytes on disk of so many records of `size` bytes each."""
    shards = -(-records // max(1, (SHARD_BYTES - HEADER_BYTES) // size))
    return records * (size + KEY.itemsize) + shards * HEADER_BYTES


def header_of(shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    """The first bytes of a shard."""
    about = {"version": VERSION, "shape": list(shape), "dtype": dtype.newbyteorder("<").str}
    return json.dumps(about).ljust(HEADER_BYTES - 1).encode() + b"\n"


def checksum(content: bytes, digest: bytes) -> int:
    """CRC-32 of a record and its digest."""
    return zlib.crc32(digest, zlib.crc32(content))


def _write_all(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _lock(file: int) -> bool:
    """Whether this process is now the only one that may append; the lock ends with it.

    False also on file systems without locks, where each process begins shards of its own.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
