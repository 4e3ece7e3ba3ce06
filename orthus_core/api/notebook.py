"""Results as notebooks show them: pictures side by side with their words, as one piece of HTML.

Words come from prompts and models, so they are escaped; pictures are embedded, nothing is fetched.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from PIL import Image

from orthus_core.image_grid import columns_for, contact_sheet
from orthus_core.results.metadata import png_bytes

# Small pictures are shown enlarged to about this width, pixel by pixel, in CSS pixels.
SHOWN = 192


def sheet_png(images: Sequence[Image.Image]) -> bytes | None:
    """One picture as it is, several as a sheet; None without pictures."""
    if not images:
        return None
    if len(images) == 1:
        return png_bytes(images[0], None)
    return png_bytes(contact_sheet(images, columns_for(len(images), per_prompt=1)), None)


def figures_html(figures: Sequence[tuple[Image.Image | None, str]]) -> str:
    """Pictures in rows, each above its words; a figure without a picture is its words alone."""
    cells = "".join(_figure(image, words) for image, words in figures)
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{cells}</div>'


def _figure(image: Image.Image | None, words: str) -> str:
    shown = ""
    if image is not None:
        width = max(image.width, SHOWN // image.width * image.width)
        data = base64.b64encode(png_bytes(image, None)).decode("ascii")
        shown = (
            f'<img src="data:image/png;base64,{data}" alt="{escape(words)}" width="{width}" '
            'style="image-rendering:pixelated">'
        )
        style = f"margin:0;width:{width}px"
    else:
        style = f"margin:0;max-width:{2 * SHOWN}px"
    caption = f"<figcaption>{escape(words)}</figcaption>" if words else ""
    return f'<figure style="{style}">{shown}{caption}</figure>'
