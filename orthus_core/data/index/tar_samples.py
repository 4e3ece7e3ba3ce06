"""An index of WebDataset tars: which members each sample has, and where their bytes lie.

Members of one tar whose paths are equal up to the first dot of the file's name are one sample. A
member is read by its place, so nothing is unpacked. A name that comes again with a suffix that its
sample has already begins another sample.

Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
"Basic Tar Format" (long names, sizes in base 256).
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from orthus_core.data.document import Place
from orthus_core.data.index.file_part import FilePart
from orthus_core.data.index.index_file import IndexArrays, as_numpy
from orthus_core.data.index.record_hash import content_key
from orthus_core.data.index.store import Built, open_index
from orthus_core.data.listing import files_ending, is_hidden
from orthus_core.errors import DataError
from orthus_core.events import Event, Progress
from orthus_core.wrong_content import true_cause

_BLOCK = 512
_FILES = b"0\x007"  # types of members that are plain files
_WINDOW = 1 << 20
_NEAR = 1 << 16
"""A member of more bytes is passed by without reading it."""

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_MOST_SUFFIXES = 4096
"""Names have dots in their middle where there are more suffixes in a data set."""

SUFFIXES = (".tar",)
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class TarSamples:
    """The samples of one or several tars; see `RecordIndex`.

    Args:
        tars: The tars, in the order of the samples.
        arrays: Their index.
    """

    def __init__(self, tars: Sequence[Path], arrays: IndexArrays) -> None:
        self.tars = [*tars]
        self.identity: str = arrays.about["identity"]
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays["key"])

    def keys(self) -> np.ndarray:
        """A hash of each sample's name, which does not depend on the tar it lies in: uint64 [N]."""
        return self._arrays["key"]

    def name(self, number: int) -> str:
        """The path in the tar that the members of a sample share."""
        begin, end = self._arrays["name_at"][number : number + 2].tolist()
        return bytes(self._arrays["names"][begin:end]).decode("utf-8", "surrogateescape")

    def place(self, number: int) -> Place:
        """The first member; only the tar where it has none that can be read."""
        members = [*self._members(number)]
        part = members[0][1].name if members else self.name(number)
        return Place(self.tars[int(self._arrays["tar"][number])], part=part)

    def record(self, number: int) -> Mapping[str, FilePart]:
        """The members of sample `number` by suffix, in lower case and without the first dot.

        Raises:
            DataError: where the tar is cut short or damaged.
        """
        problem = self._arrays.about["problems"].get(str(number))
        if problem:
            raise DataError(
                problem,
                where=str(self.place(number)),
                hint="copy, pack or download the tar again",
            )
        return dict(self._members(number))

    def _members(self, number: int) -> Iterator[tuple[str, FilePart]]:
        which, name = int(self._arrays["tar"][number]), self.name(number)
        tar, state = self.tars[which], self._arrays.files[which]
        for at in range(*self._arrays["first"][number : number + 2].tolist()):
            suffix = self._arrays.about["suffixes"][int(self._arrays["suffix"][at])]
            offset, size = int(self._arrays["offset"][at]), int(self._arrays["size"][at])
            whole = f"{name}.{suffix}" if suffix else name
            yield suffix.lower(), FilePart(tar, offset, size, whole, state)


def is_pattern(path: Path) -> bool:
    """Whether a path that does not exist is a pattern of tars as webdataset takes it, such as
    `train-{0000..0127}.tar`."""
    return bool(
        path.name.lower().endswith(SUFFIXES) and _BRACES.search(str(path)) and not path.exists()
    )


def _expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for: each number of a range, as wide as its ends, and each of
    the words between commas."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    if braces[1]:
        first, last = int(braces[1]), int(braces[2])
        width = max(map(len, braces.group(1, 2))) if "0" in (braces[1][0], braces[2][0]) else 0
        words = (f"{number:0{width}}" for number in range(first, last + 1))
    else:
        words = braces[3].split(",")
    for word in words:
        yield from _expanded(pattern[: braces.start()] + word + pattern[braces.end() :])


def tars_at(path: Path) -> list[Path]:
    """The tars of a folder and its subfolders, sorted; those of a pattern; or the path itself.

    Raises:
        DataError: if one of them is compressed, or one of a pattern is not there.
    """
    if is_pattern(path):
        files = list[Path]()
        for file in map(Path, _expanded(str(path))):
            if not file.is_file():  # the first, as a mistaken range may be long
                raise DataError(
                    f"the tar {file.name} of this pattern is not there",
                    where=str(path),
                    hint="give the range that there is, or the folder",
                )
            files.append(file)
        return files
    if not path.is_dir():
        return [path]
    files = files_ending(path, (*SUFFIXES, *COMPRESSED_SUFFIXES))
    for file in files:
        if file.name.lower().endswith(COMPRESSED_SUFFIXES):
            raise _compressed(file, "a compressed tar", "the program that packed it")
    return [file for file in files if file.suffix.lower() in SUFFIXES]


def tar_samples(
    tars: Sequence[Path], *, folder: Path | None = None
) -> Generator[Event, None, TarSamples]:
    """The samples of some tars (`tars_at` lists those of a folder).

    Args:
        tars: The tars.
        folder: Folder of indices; None takes the user's.

    Raises:
        DataError: if there is none, or one cannot be read, is compressed or is no tar.
    """
    if not tars:
        raise DataError("there is no tar", hint="give a .tar, or a folder of them")
    arrays = yield from open_index("tars", tars, lambda: _build(tars), folder)
    return TarSamples(tars, arrays)


def _build(tars: Sequence[Path]) -> Generator[Event, None, Built]:
    building = _Building()
    total, done = sum(tar.stat().st_size for tar in tars), 0
    for number, tar in enumerate(tars):
        try:
            for position in building.add_tar(number, tar):
                yield Progress("index", (done + position) >> 20, total >> 20, unit="MB")
        except DataError as error:
            if len(tars) == 1 or isinstance(error, (_Compressed, _Dotted)):
                raise
            building.set_aside(number, error.message, *building.counts())
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot read the tar: {reason}", where=str(tar)) from error
        done += tar.stat().st_size
    yield Progress("index", total >> 20, total >> 20, unit="MB")
    return building.finished()


class _Building:
    """The arrays of an index while its tars are read."""

    def __init__(self) -> None:
        # One of each sample.
        self.tar, self.key = array("I"), array("Q")
        self.name_at, self.names = array("Q", [0]), bytearray()
        # One of each member.
        self.sample, self.suffix = array("I"), array("H")
        self.offset, self.size = array("Q"), array("Q")
        self.suffixes: dict[bytes, int] = {}
        self.problems: dict[str, str] = {}
        self._identity = hashlib.blake2b(digest_size=16)

    def add_tar(self, number: int, tar: Path) -> Iterator[int]:
        """Add the samples of one tar; yields how far it is, in bytes."""
        latest: dict[bytes, int] = {}  # the latest sample of each name
        held: list[int] = []  # the suffixes of each sample, as bits
        reported, begun, first, cut = 0, len(self.key), len(self.sample), None
        for header in _headers(tar):
            if isinstance(header, _Cut):
                cut = header
                break
            path, offset, size = header
            name, suffix = _split_name(path)
            bit = 1 << self._suffix_number(suffix)
            if len(self.suffixes) > _MOST_SUFFIXES:
                raise _dotted(tar, path)
            sample = latest.get(name, -1)
            if sample < 0 or held[sample - begun] & bit:
                sample = latest[name] = len(self.key)
                held.append(0)
                self._add_sample(number, name)
            held[sample - begun] |= bit
            self.sample.append(sample)
            self.offset.append(offset)
            self.size.append(size)
            self.suffix.append(self._suffix_number(suffix))
            self._identity.update(b"%s.%s %d\n" % (name, suffix, size))
            if offset > reported + (32 << 20):
                reported = offset
                yield offset
        if cut is not None:
            name, _ = _split_name(cut.name)
            if name and name not in latest:  # the sample before is whole
                self._add_sample(number, name)
            self.set_aside(number, cut.problem, begun, first)

    def set_aside(self, number: int, problem: str, begun: int, first: int) -> None:
        """Let a sample stand for what cannot be read of a tar: its last one, which may lack
        members, or one without a name.

        Args:
            number: Number of the tar.
            problem: What is wrong with it.
            begun: Number of its first sample.
            first: Number of its first member.
        """
        if len(self.key) == begun:
            self._add_sample(number, b"")
        last = len(self.key) - 1
        kept = [at for at in range(first, len(self.sample)) if self.sample[at] != last]
        for column in (self.sample, self.offset, self.size, self.suffix):
            column[first:] = array(column.typecode, [column[at] for at in kept])
        self.problems[str(last)] = problem

    def counts(self) -> tuple[int, int]:
        """Number of the samples and of the members."""
        return len(self.key), len(self.sample)

    def _add_sample(self, tar: int, name: bytes) -> None:
        self.tar.append(tar)
        self.key.append(content_key(name))
        self.names += name
        self.name_at.append(len(self.names))

    def _suffix_number(self, suffix: bytes) -> int:
        return self.suffixes.setdefault(suffix, len(self.suffixes))

    def finished(self) -> Built:
        """The index; members are sorted by their samples."""
        sample, members = as_numpy(self.sample), (self.offset, self.size, self.suffix)
        offset, size, suffix = map(as_numpy, members)
        if (sample[1:] < sample[:-1]).any():  # samples whose members do not lie side by side
            order = np.argsort(sample, kind="stable")
            offset, size, suffix = offset[order], size[order], suffix[order]
        about = {
            "identity": f"{len(self.key)} rows, {self._identity.hexdigest()[:10]}",
            "problems": self.problems,
            "suffixes": [name.decode("utf-8", "surrogateescape") for name in self.suffixes],
        }
        first = np.zeros(len(self.key) + 1, np.uint64)
        np.cumsum(np.bincount(sample, minlength=len(self.key)), out=first[1:])
        return about, {
            "tar": as_numpy(self.tar),
            "key": as_numpy(self.key),
            "name_at": as_numpy(self.name_at),
            "names": np.frombuffer(self.names, np.uint8),
            "first": first,
            "offset": offset,
            "size": size,
            "suffix": suffix,
        }


class _Cut(NamedTuple):
    """What is wrong with a tar, and the path of the member where it is; b"" if that is unknown."""

    problem: str
    name: bytes = b""


def _headers(tar: Path) -> Iterator[tuple[bytes, int, int] | _Cut]:
    """(path, offset and size of the content) of each plain file that is data; at the end, what is
    wrong with the tar, if anything is."""
    length = tar.stat().st_size
    with tar.open("rb", buffering=0) as file:
        window, begin, at = b"", 0, 0
        long_name, pax = b"", dict[bytes, bytes]()
        size = 0
        while True:
            # 1. The header's block, from the window or the file.
            if not begin <= at <= begin + len(window) - _BLOCK:
                file.seek(at)
                window, begin = file.read(_WINDOW if size < _NEAR else 8 * _BLOCK), at
            block = window[at - begin : at - begin + _BLOCK]
            if len(block) < _BLOCK and at == 0:
                raise _no_tar(tar, block)
            if len(block) < _BLOCK:
                what = "in a header" if block else "it has no end mark"
                yield _Cut(f"the tar is cut short: {what}, byte {at}")
                return
            if not block[0] and not any(block):
                if (beyond := _beyond(file, at)) is not None:
                    yield beyond
                return
            # 2. What it says; each member's content is filled up to whole blocks.
            try:
                if not _has_its_checksum(block):
                    raise ValueError("the checksum of a header is wrong")
                size = _number(block[124:136])
            except ValueError as error:
                if at == 0:
                    raise _no_tar(tar, block) from error
                yield _Cut(f"the tar is damaged from byte {at} on: {error}")
                return
            kind, content = block[156:157], at + _BLOCK
            if b"size" in pax and kind not in b"xgLK":
                size = int(pax[b"size"])
            at = content + -(-size // _BLOCK) * _BLOCK
            # 3. Names that are too long for a header come before it.
            if kind in b"xL":
                if content + size > length:
                    yield _Cut(f"the tar is cut short: in a name, byte {content}")
                    return
                words = window[content - begin : content - begin + size]
                if len(words) < size:
                    file.seek(content)
                    words = file.read(size)
                if kind == b"L":
                    long_name = words.rstrip(b"\0")
                else:
                    pax = _pax_records(words)
                continue
            name = pax.get(b"path") or long_name or _name(block)
            if kind in b"gK":
                continue
            long_name, pax = b"", {}
            if content + size > length:
                where = f"in {name.decode('utf-8', 'replace')}, byte {length}"
                yield _Cut(f"the tar is cut short: {where}", name.removeprefix(b"./"))
                return
            # 4. Folders, links and what systems add are no data.
            if kind in _FILES and not name.endswith(b"/"):
                name = name.removeprefix(b"./")
                if not _is_hidden(name):
                    yield name, content, size


def _beyond(file: BinaryIO, end: int) -> _Cut | None:
    """What is wrong with a tar in which another header follows the end mark, as in several tars
    that were joined byte by byte; None if nothing does."""
    file.seek(end)
    rest = file.read(_WINDOW)
    content = np.flatnonzero(np.frombuffer(rest, np.uint8))
    if not len(content):
        return None
    at = int(content[0]) // _BLOCK * _BLOCK
    block = rest[at : at + _BLOCK]
    try:
        is_header = len(block) == _BLOCK and _has_its_checksum(block)
    except ValueError:
        return None
    problem = f"the tar goes on after its end mark, byte {end + at}: what follows is not read"
    return _Cut(problem, _name(block).removeprefix(b"./")) if is_header else None


def _has_its_checksum(block: bytes) -> bool:
    """Whether a header's checksum is right. Raises: ValueError where it is no number."""
    checksum = int(block[148:156].strip(b" \0") or b"0", 8)
    return checksum == sum(block) - sum(block[148:156]) + 8 * 32


def _split_name(path: bytes) -> tuple[bytes, bytes]:
    """The path up to the first dot of the file's name, and what follows the dot."""
    folder, slash, base = path.rpartition(b"/")
    stem, _, suffix = base.partition(b".")
    return folder + slash + stem, suffix


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:262] == b"ustar" and block[345]:
        # GNU's headers, whose mark ends in spaces, have times in place of a prefix.
        if block[257:265] != b"ustar  \0":
            return block[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _number(field: bytes) -> int:
    """A size: octal digits, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    return int(field.strip(b" \0") or b"0", 8)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """The records of an extended header: each is "LENGTH KEY=VALUE", and a line end."""
    records, at = dict[bytes, bytes](), 0
    while at < len(content):
        length_text, _, _ = content[at : at + 20].partition(b" ")
        if not length_text.isdigit() or not int(length_text):
            break
        record = content[at : at + int(length_text)]
        key, _, value = record[len(length_text) + 1 :].rstrip(b"\n").partition(b"=")
        records[key], at = value, at + int(length_text)
    return records


def _is_hidden(name: bytes) -> bool:
    if name[:1] != b"." and b"/." not in name and b"__MACOSX" not in name:
        return False
    return any(
        is_hidden(part.decode("utf-8", "replace"))
        for part in name.split(b"/")
        if part not in (b"..", b".")
    )


class _Compressed(DataError):
    """A tar that was packed: none of the set can be read before it is unpacked."""


class _Dotted(DataError):
    """A tar whose members' names have dots before their suffix."""


def _dotted(tar: Path, path: bytes) -> DataError:
    return _Dotted(
        f"the names of its members have more than {_MOST_SUFFIXES:,} suffixes, such as "
        f"{_split_name(path)[1].decode('utf-8', 'replace')!r}",
        where=str(tar),
        hint="a sample's name ends at its first dot: rename the members, so that only the suffix "
        "follows one",
    )


def _no_tar(tar: Path, head: bytes) -> DataError:
    for mark, (kind, program) in _COMPRESSED.items():
        if head.startswith(mark):
            return _compressed(tar, f"compressed ({kind})", program)
    return true_cause(
        DataError("this is no tar", where=str(tar), hint="copy or download it again"), tar
    )


def _compressed(tar: Path, how: str, program: str) -> DataError:
    return _Compressed(
        f"this is {how}, and members of a compressed tar cannot be read one by one",
        where=str(tar),
        hint=f"unpack it once with {program}, and keep the .tar",
    )
