"""torch's operations on many tensors at once: one call, and on a card few kernels.

torch's own optimisers are made of them; they stand without a public name.
"""

from __future__ import annotations

import torch

add_ = torch._foreach_add_  # type: ignore[reportPrivateImportUsage]
lerp = torch._foreach_lerp  # type: ignore[reportPrivateImportUsage]
lerp_ = torch._foreach_lerp_  # type: ignore[reportPrivateImportUsage]
mul_ = torch._foreach_mul_  # type: ignore[reportPrivateImportUsage]
