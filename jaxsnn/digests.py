"""Digests, which tell whether a file belongs to the same run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def digest(*parts: Any) -> str:
    """SHA-256 of the bytes of arrays, and of texts.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.digests import digest
        >>> digest("a", np.zeros(2)) == digest("a", np.zeros(2)) != digest("a", np.ones(2))
        True
    """
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return found.hexdigest()


def fingerprint(function: Callable[..., Any], *examples: Any) -> str:
    """Digest of what a function computes for arguments like these: of its jaxpr.

    Functions cannot be compared, what JAX traces of them can.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.digests import fingerprint
        >>> fingerprint(lambda x: x + 1, 0.0) == fingerprint(lambda y: y + 1, 0.0)
        True
        >>> fingerprint(lambda x: x + 1, 0.0) == fingerprint(lambda x: x + 2, 0.0)
        False
    """
    traced = jax.make_jaxpr(function)(*examples)
    text = re.sub(r" at 0x[0-9a-f]+", "", str(traced.jaxpr))  # addresses of this process
    return digest(text, *traced.consts)
