"""A story as one HTML page: embedded pictures, no scripts, no network access.

It opens from disk and as an attachment, adapts to phones, wide screens, dark mode and print, and
its pictures have their text as alternative text.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple


class Figure(NamedTuple):
    """A panel on the page: its words, and its picture as a PNG file's bytes and size in pixels."""

    text: str
    png: bytes | None = None
    size: tuple[int, int] = (0, 0)


# Narrower pictures are shown smaller, two side by side on a phone.
SMALL = 160  # pixels
# Numbers of pictures that look better in rows of two, or of three, than in rows of four.
IN_TWOS = (1, 2, 4)
IN_THREES = (3, 5, 6, 9)

# This policy keeps the page from fetching anything, whatever text a model wrote into it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #faf7f2; --ink: #26221d; --faint: #6f675c; --line: #e3dcd0; --mat: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #191714; --ink: #ece6dc; --faint: #a39a8c; --line: #37322b; --mat: #24211d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: clamp(1.25rem, 5vw, 4rem) 1rem; background: var(--paper); color: var(--ink);
  font: 1.125rem/1.55 Charter, "Iowan Old Style", Georgia, "Noto Serif", serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 60rem; margin: 0 auto; }
h1 {
  margin: 0 auto clamp(1.5rem, 5vw, 3rem); max-width: 24ch; text-align: center;
  font-size: clamp(1.6rem, 6vw, 2.5rem); line-height: 1.15; font-weight: 600;
  text-wrap: balance; overflow-wrap: anywhere;
}
h1.long {
  max-width: 40rem; font-size: 1.25rem; line-height: 1.5; font-weight: 400; white-space: pre-line;
}
h1::first-letter, figcaption p::first-letter { text-transform: uppercase; }
ol {
  list-style: none; margin: 0; padding: 0; display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr));
}
ol.small {
  gap: 1rem; max-width: 48rem; margin: 0 auto;
  grid-template-columns: repeat(auto-fill, minmax(max(9.5rem, 22%), 1fr));
}
ol.small.three { max-width: 36rem; }
ol.few { max-width: 40rem; margin: 0 auto; }
ol.small.few { max-width: 24rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
li, figure { margin: 0; min-width: 0; }
figure {
  height: 100%; overflow: hidden; background: var(--mat); border: 1px solid var(--line);
  border-radius: 0.75rem;
}
img { display: block; width: 100%; height: auto; }
figcaption { padding: 0.85rem 1rem 1rem; overflow-wrap: anywhere; }
figcaption p { margin: 0; white-space: pre-line; }
.words { grid-column: 1 / -1; max-width: 34rem; margin: 0 auto; text-align: center; }
.words figure { height: auto; border: 0; background: none; }
.words figcaption { padding: 0; font-style: italic; }
footer { margin-top: clamp(2rem, 6vw, 3.5rem); color: var(--faint); font: 0.85rem/1.5 system-ui,
  sans-serif; text-align: center; overflow-wrap: anywhere; }
footer p { margin: 0; }
@page { margin: 16mm; }
@media print {
  :root {
    --paper: #ffffff; --ink: #000000; --faint: #555555; --line: #cccccc; --mat: #ffffff;
  }
  body { padding: 0; font-size: 11pt; }
  ol { grid-template-columns: repeat(2, 1fr); gap: 8mm; }
  ol.small { grid-template-columns: repeat(3, 1fr); gap: 6mm; }
  ol.few, ol.small.few { max-width: 110mm; grid-template-columns: repeat(2, 1fr); }
  li { break-inside: avoid; }
  h1 { font-size: 20pt; break-after: avoid; }
}
""".strip()


def story_page(
    title: str, figures: Sequence[Figure], how: Mapping[str, str], *, heading: str | None = None
) -> str:
    """Build the page.

    Args:
        title: Title of the page; plain text, like all texts here.
        figures: Panels in order.
        how: How the story was made, for the small print.
        heading: Words above the panels; the title when None. Longer ones than a title, such as the
            whole opening, are set smaller.
    """
    items = "\n".join(_item(number, figure) for number, figure in enumerate(figures, start=1))
    widths = [figure.size[0] for figure in figures if figure.png is not None]
    kinds = {
        "few": len(widths) in IN_TWOS,
        "three": len(widths) in IN_THREES,
        "small": bool(widths) and max(widths) < SMALL,
    }
    listed = " ".join(kind for kind, holds in kinds.items() if holds)
    above = title if heading is None else heading
    long = "" if above == title else ' class="long"'
    made = " · ".join(f"{escape(name)} {escape(value)}" for name, value in how.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="orthus story">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
<h1{long}>{escape(above)}</h1>
<ol class="{listed}">
{items}
</ol>
<footer>
<p>Told and drawn with orthus · {made}</p>
</footer>
</main>
</body>
</html>
"""


def _item(number: int, figure: Figure) -> str:
    words = escape(figure.text)
    caption = f"<figcaption><p>{words}</p></figcaption>" if words else ""
    if figure.png is None:
        return f'<li class="words"><figure>{caption}</figure></li>'
    source = "data:image/png;base64," + base64.b64encode(figure.png).decode()
    alt = f"Picture {number}: {words}" if words else f"Picture {number}"
    width, height = figure.size
    picture = f'<img width="{width}" height="{height}" src="{source}" alt="{alt}">'
    return f"<li><figure>{picture}{caption}</figure></li>"
