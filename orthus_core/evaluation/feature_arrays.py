"""Features as arrays: from lists, NumPy and torch, in double precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orthus_core.errors import DataError

if TYPE_CHECKING:
    import numpy as np


def as_array(values: Any) -> np.ndarray:
    """Values as a NumPy array of their own type; torch is not imported for it."""
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        return values.numpy()
    return np.asarray(values)


def as_numbers(values: Any) -> np.ndarray:
    """Values as an fp64 array.

    Raises:
        DataError: When they are no numbers.
    """
    import numpy as np

    try:
        return as_array(values).astype(np.float64)
    except (TypeError, ValueError) as error:  # such as rows of different lengths
        raise DataError(f"no array of numbers: {error}") from error


def feature_array(values: Any) -> np.ndarray:
    """Features as fp64 [N, D]; a single vector is one row.

    Raises:
        DataError: When they are something else, or not finite.
    """
    import numpy as np

    array = as_numbers(values)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or not array.size:
        raise DataError(f"features of shape {array.shape}", hint="give [N, D], a row for a picture")
    if not np.isfinite(array).all():
        raise DataError("features that are not finite")
    return array
