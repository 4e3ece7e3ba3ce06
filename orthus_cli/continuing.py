"""`orthus generate --continue out.png`: the picture that is named, and the values that it was drawn
with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orthus_cli.stored import Stored, stored
from orthus_core.errors import PromptError

if TYPE_CHECKING:
    from orthus_core.api.continuation import Continuation


def continuation_from(path: Path | None, rows: int | None) -> tuple[Continuation | None, Stored]:
    """The picture to continue, and what a new run takes over from it: all but its seed.

    Raises:
        PromptError: When rows are to be kept of no picture.
        DataError: When it does not read.
    """
    if not path and not rows:
        return None, Stored()

    from orthus_core.api.continuation import open_continuation

    if path is None:
        raise PromptError(
            "--keep-rows keeps rows of a picture, and none is named",
            where="--keep-rows",
            hint="name it with --continue out.png",
        )
    continuation = open_continuation(path, rows)
    if continuation.record is None or continuation.record.command != "generate":
        return continuation, Stored()
    before = stored(path, "generate")
    others = [each for each in before.sets if not each.startswith("seeds=")]
    return continuation, before._replace(sets=others)
