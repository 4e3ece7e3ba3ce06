"""Recognise a file that holds something else than its name says: a Git LFS pointer, a web page, an
archive, nothing at all, or a download that has not ended.

Such a file was fetched wrongly. Its format's own reader can only call it damaged, and fetching it
again the same way gives the same file, so whoever fails to read a file asks here first.

Sources: git-lfs/git-lfs, docs/spec.md (pointer files); APPNOTE.TXT 4.3.7 (zip); RFC 1952 (gzip).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple, TypeVar

from orthus_core.errors import OrthusError

Error = TypeVar("Error", bound=OrthusError)

EMPTY = "an empty file, of 0 bytes"

_READ_BYTES = 4096
_LFS = re.compile(rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/")
_XET = re.compile(rb"# xet version |version https://xet[\w.-]*/")
_PAGE = re.compile(
    rb"(?:\s|<!--.*?-->|<\?xml[^>]*>)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
# Signatures of archives and of single compressed files.
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# torch.save writes a zip whose first entry is `NAME/data.pkl`, behind a header of 30 bytes.
_ZIP_NAME = 30
# What browsers, aria2 and huggingface_hub call a file that is not complete, and what aria2 and axel
# keep beside one.
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2")
_BESIDE = (".aria2", ".st")


class WrongContent(NamedTuple):
    """What a file is instead, as the end of "this is ...", and what to do about it."""

    what: str
    hint: str


def wrong_content(source: str | os.PathLike[str] | bytes) -> WrongContent | None:
    """What a file holds in place of what its name says; None when nothing of that kind is found.

    Args:
        source: Path of the file, or its first bytes at least.
    """
    if isinstance(source, bytes):
        return _of_bytes(source, len(source))
    path = Path(source)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_READ_BYTES)
    except (OSError, ValueError):
        return None  # whoever opens it reports that
    # First, because an unfinished file can be empty, or begin with anything.
    return _unfinished(path) or _of_bytes(head, size)


def true_cause(
    damaged: Error,
    source: str | os.PathLike[str] | bytes,
    error: BaseException | None = None,
) -> Error:
    """The error to raise for a file that could not be read: of the place it lies in, of what it
    holds instead, or `damaged` where neither is the cause.

    Args:
        damaged: The error for a file of the right kind whose content is wrong.
        source: Path of the file, or its content.
        error: What reading it raised.
    """
    kind, where = type(damaged), damaged.where
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return kind(
            "there is not enough memory to read it",
            where=where,
            hint="end other programs, or use a machine with more memory; the file may be whole",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return kind(
            f"the file cannot be read: {error.strerror or error}",
            where=where,
            hint="check its path, its rights and the disk; its content was not looked at",
        )
    found = wrong_content(source)
    if found is None:
        return damaged
    if found.what == EMPTY:
        return kind(f"{damaged.message}: it is {EMPTY}", where=where, hint=damaged.hint)
    return kind(f"this is {found.what}", where=where, hint=found.hint)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """torch raises a plain RuntimeError for memory that cannot be allocated or mapped."""
    return isinstance(error, RuntimeError) and (
        "allocate memory" in str(error) or "not enough memory" in str(error)
    )


def unfinished_downloads(folder: Path) -> list[Path]:
    """Files of a folder, and of huggingface_hub's records in it, that are not downloaded yet."""
    places = (folder, folder / ".cache" / "huggingface" / "download")
    try:
        return sorted(
            file
            for place in places
            if place.is_dir()
            for file in place.iterdir()
            if file.suffix in UNFINISHED and file.is_file()
        )
    except OSError:
        return []


def _unfinished(path: Path) -> WrongContent | None:
    beside = [path.with_name(path.name + ending) for ending in _BESIDE]
    mark = next((file for file in beside if file.is_file()), None)
    if path.suffix not in UNFINISHED and mark is None:
        return None
    why = f": {mark.name} lies beside it" if mark else ""
    return WrongContent(
        f"a download that has not ended{why}",
        "wait until it is complete, or start it again; its tool then gives the file its name",
    )


def _of_bytes(head: bytes, size: int) -> WrongContent | None:
    if size == 0:
        return WrongContent(EMPTY, "copy or download it again")
    text = head.removeprefix(b"\xef\xbb\xbf")
    if _LFS.match(text) or _XET.match(text):
        kind = "Git LFS" if _LFS.match(text) else "Xet"
        stated = re.search(rb"^size (\d+)\s*$", text, re.M)
        size_text = f" of {int(stated[1]):,} bytes" if stated else ""
        return WrongContent(
            f"a {kind} pointer, which stands for a file{size_text} that was not fetched",
            "run `git lfs pull` in the clone, or download it with `hf download`",
        )
    if _PAGE.match(text):
        title = re.search(rb"<title[^>]*>\s*(.*?)\s*</title>", text, re.I | re.S)
        words = " ".join(title[1].decode("utf-8", "replace").split())[:60] if title else ""
        return WrongContent(
            "a web page" + (f" ({words})" if words else "") + ", saved under this name",
            "the address led to a login, an error or a view of the file: download the file itself",
        )
    if head.startswith(b"PK\x03\x04"):
        name = head[_ZIP_NAME : _ZIP_NAME + int.from_bytes(head[26:28], "little")]
        if name.endswith(b"data.pkl"):
            return WrongContent(
                "a pickle of weights that torch.save wrote, under another name",
                "give it back its name, such as pytorch_model.bin",
            )
    kind = next((name for mark, name in _ARCHIVES.items() if head.startswith(mark)), None)
    return (
        WrongContent(f"an archive ({kind})", "unpack it, and give what is inside") if kind else None
    )
