"""The page, and the policy under which a browser shows it.

The page is one file that loads nothing. Its policy names the hashes of its own script and style, so
that a browser runs no other, whatever text comes into the page.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).with_name("page.html")


class Page(NamedTuple):
    """The page as it is answered.

    Attributes:
        content: Its bytes.
        policy: Its Content-Security-Policy.
    """

    content: bytes
    policy: str


@lru_cache(maxsize=1)
def read_page() -> Page:
    """The page, read once."""
    # As a browser reads it: hashes are of the text with its line ends as "\n".
    text = PAGE.read_text(encoding="utf-8")
    return Page(text.encode(), page_policy(text))


def page_policy(text: str) -> str:
    """The policy of a page: its own script and style, pictures from memory, and this server.

    `require-trusted-types-for` refuses text as markup where the page's script itself would try.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(text, 'script')}",
            f"style-src {_hashes(text, 'style')}",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def _hashes(text: str, tag: str) -> str:
    """The hashes of all elements of a kind, as a policy lists them."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = (hashlib.sha256(each.encode()).digest() for each in found)
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
