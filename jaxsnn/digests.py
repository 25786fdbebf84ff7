"""Digests, which tell whether a file belongs to the same run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


def digest(*parts: Any) -> str:
    """SHA-256 of texts and of arrays: of their types, shapes and bytes.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.digests import digest
        >>> digest("a", np.zeros(2)) == digest("a", np.zeros(2)) != digest("a", np.zeros(3))
        True
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            kind, data = "text", np.frombuffer(part.encode(), np.uint8)
        else:
            array = _plain(part)
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            kind = f"{array.dtype} {array.shape}"
        found.update(f"{kind} {data.size}:".encode())
        found.update(data.data)
    return found.hexdigest()


def _plain(array: Any) -> np.ndarray:
    """An array of numbers, also of a JAX key."""
    dtype = getattr(array, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def fingerprint(function: Callable[..., Any], *examples: Any) -> str:
    """Digest of what a function computes for arguments like these: of its jaxpr.

    Functions cannot be compared, what JAX traces of them can. What a callback does on the host
    cannot be seen.

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
    return digest(text, *_constants(traced))


def _constants(traced: ClosedJaxpr | Jaxpr) -> Iterator[Any]:
    """The arrays that a jaxpr holds, and those of the functions that it calls."""
    inner = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    if isinstance(traced, ClosedJaxpr):
        yield from traced.consts
    for equation in inner.eqns:
        for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from _constants(value)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)
