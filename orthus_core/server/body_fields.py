"""Fields of requests' bodies, checked one by one; what is refused says why, and what was probably
meant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from orthus_core.data.document import check_unicode
from orthus_core.errors import OrthusError

# Highest whole number of a field that has no bound of its own.
MOST = 2**63 - 1
# Characters of a prompt.
LONGEST_PROMPT = 32_000
# What stands in a form's fields for a file that is no picture to edit.
A_FILE = "(a file)"


class Refused(OrthusError):
    """A request that cannot be answered as it stands.

    Args:
        message: What is wrong.
        where: Field of the request.
        hint: What to do.
        status: HTTP status.
        code: OpenAI's short name of the error.
        headers: Further headers of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        hint: str = "",
        status: int = 400,
        code: str = "invalid_value",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status, self.code, self.headers = status, code, dict(headers or {})


class Fields:
    """The fields of a body, taken one by one; `done` refuses those that are left.

    Args:
        body: The body, or an object in it.
        where: Place of that object in the body, such as `messages[0]`.
        from_form: Whether values are texts, or lists of texts, as in a form.
    """

    def __init__(self, body: Any, *, where: str = "", from_form: bool = False) -> None:
        if not isinstance(body, Mapping):
            raise Refused(f"{where or 'the body'} must be a JSON object", where=where or "body")
        self._where = where
        self._left = {name: value for name, value in body.items() if value is not None}
        self._known: set[str] = set()
        self._from_form = from_form

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def peek(self, name: str) -> Any:
        return self._left.get(name)

    def take(self, name: str, default: Any = None) -> Any:
        self._known.add(name)
        return self._left.pop(name, default)

    def text(self, name: str, default: str | None = None, longest: int = LONGEST_PROMPT) -> Any:
        value = self.take(name, default)
        if value is None:
            return None
        if not isinstance(value, str):
            raise Refused(f"{name} must be text, not {shown(value)}", where=self._place(name))
        return checked_text(value, self._place(name), longest)

    def integer(self, name: str, default: int | None = None, low: int = 0, high: int = MOST) -> Any:
        value = self._number(name, default)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int):
            raise Refused(
                f"{name} must be a whole number, not {shown(value)}", where=self._place(name)
            )
        if not low <= value <= high:
            bounds = f"at least {low}" if value < low and high == MOST else f"from {low} to {high}"
            raise Refused(f"{name} must be {bounds}, not {shown(value)}", where=self._place(name))
        return value

    def integers(self, name: str) -> Any:
        """A list of whole numbers; a form has it as text, such as [200, 800], or as several fields
        of one name.
        """
        value = self.take(name)
        if self._from_form and isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                pass
        elif self._from_form and isinstance(value, list):
            value = [int(each) if _is_number(each) else each for each in value]
        are_whole = isinstance(value, list) and all(type(each) is int for each in value)
        if value is not None and not are_whole:
            raise Refused(
                f"{name} must be a list of whole numbers, not {shown(value)}",
                where=self._place(name),
            )
        return value

    def number(
        self, name: str, default: float | None = None, low: float = -1e6, high: float = 1e6
    ) -> Any:
        value = self._number(name, default)
        if value is None:
            return None
        if not low <= value <= high:  # also what is no number at all
            raise Refused(f"{name} must be from {low:g} to {high:g}", where=self._place(name))
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if self._from_form and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if not isinstance(value, bool):
            raise Refused(
                f"{name} must be true or false, not {shown(value)}", where=self._place(name)
            )
        return value

    def choice(self, name: str, choices: Sequence[str], default: str, hint: str = "") -> str:
        value = self.take(name, default)
        if value not in choices:
            raise Refused(
                f"{name} {shown(value)} is not supported",
                where=self._place(name),
                hint=hint or f"use {' or '.join(choices)}",
            )
        return value

    def unsupported(self, reasons: Mapping[str, tuple[Any, str]]) -> None:
        """Refuses fields that have no meaning here, unless they have a value that changes nothing.

        Args:
            reasons: By name: that value, and why another is refused.
        """
        for name, (idle, reason) in reasons.items():
            if self.take(name, idle) != idle:
                raise Refused(
                    f"{name} is not supported: {reason}",
                    where=self._place(name),
                    hint="leave it out",
                )

    def ignore(self, *names: str) -> None:
        for name in names:
            self.take(name)

    def done(self) -> None:
        """Refuses what is left. Raises: Refused."""
        for name in self._left:
            near = get_close_matches(str(name), self._known, 1)
            raise Refused(
                f"unknown field {shown(name)}" + (f", did you mean {near[0]!r}?" if near else ""),
                where=self._place(str(name)[:64]),
                code="unknown_parameter",
            )

    def _place(self, name: str) -> str:
        """Place of a field in the body."""
        return f"{self._where}.{name}" if self._where else name

    def _number(self, name: str, default: Any) -> Any:
        value = self.take(name, default)
        if self._from_form and isinstance(value, str):
            number = int if value.isdecimal() else float  # a float does not hold every seed
            try:
                value = number(value) if len(value) < 32 else math.nan
            except ValueError:
                pass
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise Refused(f"{name} must be a number, not {shown(value)}", where=self._place(name))
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused(f"{name} must be a finite number", where=self._place(name))
        return value


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 32


def checked_text(text: str, where: str, longest: int) -> str:
    """The text, if it is Unicode and not too long. Raises: Refused."""
    if len(text) > longest:
        raise Refused(
            f"{where} is {len(text)} characters long, and at most {longest} are read",
            where=where,
            code="string_above_max_length",
        )
    check_unicode(text, where)
    return text


def shown(value: Any) -> str:
    """A client's value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
