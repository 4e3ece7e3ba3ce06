"""The folder of a model's answers while they are written, and when they are whole.

    run.json              how the answers were made; written last, so that it marks a whole set
    pieces/asked.json     what is being asked; there only while the set is not whole
    pieces/000012.json    the answers of a piece of the questions, and the time they took

The official files lie beside `run.json`. A piece is written completely or not at all, and always
holds the same questions, so a set that was stopped and resumed is the same to the byte. Processes
write different pieces.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from orthus_core.atomic import staged_file, write_text
from orthus_core.atomic_folder import check_folder
from orthus_core.errors import OutputError
from orthus_core.evaluation.official.questions_asked import Ask
from orthus_core.output_checks import probe_folder

RUN = "run.json"
PIECES = "pieces"
ASKED = "asked.json"


class Piece(NamedTuple):
    """The answers of a piece.

    Attributes:
        answers: By the key of the ask; None for what did not fit the model's context.
        model_s: Seconds in the model.
        all_s: Seconds from the end of the piece before to the end of this one.
    """

    answers: dict[str, str | None]
    model_s: float
    all_s: float


class AnswerFolder:
    """A folder of answers.

    Args:
        path: The folder.
        identity: What decides about the answers; only a run of the same goes on with them.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, json.loads(json.dumps(identity))

    @property
    def run(self) -> dict[str, Any] | None:
        """How the answers were made; None while they are not whole."""
        return read_run(self.path)

    def begin(self, *, overwrite: bool = False) -> None:
        """Prepare the folder, or go on with what it has.

        Raises:
            OutputError: When it holds something else or answers of another run, and these may not
                be replaced, or cannot be written to.
        """
        earlier = _table(self.path / PIECES / ASKED) or _asked(self.run)
        check_answer_folder(self.path, overwrite=overwrite)
        if earlier is None or overwrite:
            for name in (*self._earlier_files(), RUN):
                with suppress(FileNotFoundError):
                    (self.path / name).unlink()
            shutil.rmtree(self.path / PIECES, ignore_errors=True)
        else:
            self._check_same(earlier)
        if self.run is None:
            self._write(f"{PIECES}/{ASKED}", _text(self.identity))

    def join(self) -> None:
        """Check that another process sees the folder that the first one has prepared.

        Raises:
            OutputError: When it does not, or was started with other values.
        """
        earlier = _table(self.path / PIECES / ASKED) or _asked(self.run)
        if earlier is None:
            raise OutputError(
                "this process does not see what the first one has begun",
                where=str(self.path),
                hint="processes on several machines need a folder that all of them share",
            )
        self._check_same(earlier)

    def piece(self, number: int, asks: Sequence[Ask]) -> Piece | None:
        """The answers of a piece; None while it has none, or a picture of it is not there."""
        found = _table(self._piece_path(number))
        if found is None or [*found.get("answers", ())] != [ask.key for ask in asks]:
            return None
        piece = Piece(found["answers"], found["model_s"], found["all_s"])
        files = [name for name in piece.answers.values() if name] if self._draws else []
        return piece if all((self.path / name).is_file() for name in files) else None

    def write_piece(self, number: int, piece: Piece) -> None:
        """Keep the answers of a piece. Raises: OutputError when they cannot be written."""
        self._write(
            self._piece_path(number).relative_to(self.path).as_posix(), _text(piece._asdict())
        )

    def finish(self, files: Mapping[str, bytes], made: Mapping[str, Any]) -> None:
        """Write the official files, then how they were made.

        Raises:
            OutputError: When one cannot be written; the pieces are kept.
        """
        for name, content in files.items():
            with staged_file(self.path / name, parents=True) as beside:
                beside.write_bytes(content)
        write_text(self.path / RUN, _text({"asked": self.identity, **made}))
        shutil.rmtree(self.path / PIECES, ignore_errors=True)

    def _earlier_files(self) -> list[str]:
        """Files that an earlier run has written; whatever its record says, none lies elsewhere."""
        names = [*((self.run or {}).get("files") or ())]
        for path in sorted((self.path / PIECES).glob("[0-9]*.json")):
            names += [str(name) for name in ((_table(path) or {}).get("answers") or {})]
        here = self.path.resolve()
        files = [name for name in names if (here / name).resolve().is_relative_to(here)]
        return [name for name in files if (here / name).is_file()]

    @property
    def _draws(self) -> bool:
        return bool(self.identity.get("draws"))

    def _piece_path(self, number: int) -> Path:
        return self.path / PIECES / f"{number:06d}.json"

    def _write(self, name: str, text: str) -> None:
        with staged_file(self.path / name, parents=True) as beside:
            beside.write_text(text, encoding="utf-8")

    def _check_same(self, earlier: Mapping[str, Any]) -> None:
        names = [*dict.fromkeys((*earlier, *self.identity))]
        other = [name for name in names if earlier.get(name) != self.identity.get(name)]
        if other:
            name = other[0]
            raise OutputError(
                f"the folder has answers that were made with another {', '.join(other)}: "
                f"{name} was {earlier.get(name)!r} and is {self.identity.get(name)!r}",
                where=str(self.path),
                hint="choose another folder with -o, or ask all anew with --overwrite",
            )


def check_answer_folder(path: Path, *, overwrite: bool = False) -> None:
    """Check, before a model is opened, that answers may be written to a folder.

    Raises:
        OutputError: When it is a file or holds something else, or cannot be written to.
    """
    run = read_run(path)
    if _asked(run) or _table(path / PIECES / ASKED):
        probe_folder(path)
    elif run is not None:  # a model's folder, and that of its training, have a file of this name
        raise OutputError(
            f"the folder's {RUN} is not that of answers, so it will not be replaced",
            where=str(path),
            hint="choose another folder with -o",
        )
    else:
        check_folder(path, mark=RUN, overwrite=overwrite)


def read_run(folder: Path) -> dict[str, Any] | None:
    """How the answers in a folder were made; None where that is not known."""
    return _table(folder / RUN)


def _asked(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    asked = None if run is None else run.get("asked")
    return asked if isinstance(asked, dict) else None


def _table(path: Path) -> dict[str, Any] | None:
    """An object in a JSON file; None where there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _text(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"
