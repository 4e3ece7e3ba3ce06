"""Tables between markers of a page, which a run makes anew and a person writes around.

<!-- bench: race mid cpu -->
...
<!-- /bench -->
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from orthus_core.atomic import write_text
from orthus_core.errors import OutputError


def check_page(page: Path, sections: Iterable[str]) -> None:
    """Whether the page has a place for each section. Raises: OutputError naming what is missing."""
    text = _read(page)
    for section in sections:
        if not _place(section).search(text):
            raise OutputError(
                f"the page has no place for {section!r}",
                where=str(page),
                hint=f"write <!-- bench: {section} --> and <!-- /bench --> where it belongs",
            )


def write_sections(page: Path, sections: Mapping[str, str]) -> None:
    """Puts each text between its markers; all else on the page stays as it is.

    Raises: OutputError when the page lacks a place, or cannot be written.
    """
    check_page(page, sections)
    text = _read(page)
    for section, content in sections.items():
        text = _place(section).sub(lambda m, c=content: f"{m[1]}\n{c}\n{m[2]}", text, count=1)
    write_text(page, text, hint="make room and rights there, or name another page with --page")


def _place(section: str) -> re.Pattern[str]:
    return re.compile(
        rf"(<!-- bench: {re.escape(section)} -->).*?(<!-- /bench -->)", flags=re.DOTALL
    )


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"no page to write to: {error.strerror}",
            where=str(page),
            hint="run it at the root of the repository, or name the page with --page",
        ) from error
