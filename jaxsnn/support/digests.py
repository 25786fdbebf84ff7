"""Digests, which tell whether a file belongs to the same run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr


def digest(*parts: Any) -> str:
    """SHA-256 of texts and of arrays: of their types, shapes and bytes.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.support.digests import digest
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


def checksums(rows: Any) -> Any:
    """A number of 32 bits for each row of an array, which can be computed while JAX traces, too.

    It tells arrays apart that differ by mistake; unlike `digest` it is no proof against intent.

        Σᵢ bits(xᵢ) · (2i + 1) · 2654435769  modulo 2^32

    Args:
        rows: an array [N, ...] of NumPy or JAX, taken as float32 or as integers of 32 bits.

    Returns:
        Unsigned integers [N], of NumPy for an array of NumPy.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from jaxsnn.support.digests import checksums
        >>> rows = np.array([[0.25, 0.5], [0.5, 0.25]])
        >>> checksums(rows).tolist() == checksums(jnp.asarray(rows)).tolist()
        True
        >>> bool(checksums(rows)[0] == checksums(rows)[1])
        False
    """
    if not isinstance(rows, np.ndarray):
        return _checksums(rows)
    words, odd = _words(rows)
    return words @ odd


def _words(rows: Any) -> tuple[Any, np.ndarray]:
    dtype = np.uint32 if rows.dtype.kind in "iu" else np.float32
    rows = rows.reshape(len(rows), -1).astype(dtype, copy=False)
    return rows.view(np.uint32), _odd(rows.shape[1])


@lru_cache(maxsize=64)
def _odd(count: int) -> np.ndarray:
    return (2 * np.arange(count, dtype=np.uint32) + 1) * np.uint32(2654435769)


@jax.jit
def _checksums(rows: Array) -> Array:
    words, odd = _words(rows)
    return (words * odd[None]).sum(1, dtype=np.uint32)


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
        >>> from jaxsnn.support.digests import fingerprint
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
