"""Arrays of the host, of devices, and those that JAX traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field
from functools import wraps
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

Shape = tuple[int, ...]
F = TypeVar("F", bound=Callable[..., Any])
_SMALL = 1 << 20  # bytes of which a copy takes tens of microseconds
_LARGEST_PART = 1 << 24  # numbers that are compared at a time
if TYPE_CHECKING:
    AnyArray = Array
else:
    # A field of a pytree holds arrays of a device or of the host, and while JAX transforms it
    # whatever JAX puts there.
    AnyArray = Any


def static_field(default: Any = MISSING) -> Any:
    """A field that belongs to the structure of the pytree and not to its leaves."""
    return field(default=default, metadata={"static": True})


def is_known(value: object) -> bool:
    """Whether a value can be looked at: under `jit`, `vmap` or `grad` it may be a tracer."""
    return not isinstance(value, Tracer)


def all_known(tree: Any) -> bool:
    """Whether all leaves of a pytree can be looked at."""
    return all(map(is_known, jax.tree.leaves(tree)))


def is_on_host(value: object) -> bool:
    """Whether NumPy sees a known value without moving it from a device."""
    if not isinstance(value, jax.Array):
        return True
    if not is_known(value) or len(value.devices()) > 1:
        return False
    return all(device.platform == "cpu" for device in value.devices())


def nearby(values: Any) -> Any:
    """Values as they are, or small floats on the default device as an array of NumPy.

    A copy to the host takes less time than one program there that looks at them, and NumPy needs
    none.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.support.arrays import nearby
        >>> type(nearby(jnp.ones(2))).__name__
        'ndarray'
    """
    if not isinstance(values, jax.Array) or not is_known(values) or values.nbytes > _SMALL:
        return values
    if not jnp.issubdtype(values.dtype, jnp.floating):  # a check will complain of it
        return values
    chosen = cast(Any, jax.config).jax_default_device
    default = {jax.local_devices()[0]} if chosen is None else set()
    return np.asarray(values) if values.devices() == default else values


def numbers_of(tree: Any) -> Any:
    """NumPy for what is known, since it compiles nothing, and `jax.numpy` for what is traced."""
    return np if all_known(tree) else jnp


def compiled(function: F, **options: Any) -> F:
    """A function of arrays that JAX compiles, and that NumPy computes where all arrays are its own.

    Args:
        function: what it does with arrays it does by their methods and by `numbers_of` them.
        options: those of `jax.jit`.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from jaxsnn.support.arrays import compiled, numbers_of
        >>> root = compiled(lambda x: numbers_of(x).sqrt(x))
        >>> [type(root(numbers.ones(2))).__name__ for numbers in (np, jnp)]
        ['ndarray', 'ArrayImpl']
    """
    program = jax.jit(function, **options)

    @wraps(function)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        for leaf in jax.tree.leaves((args, kwargs)):
            if type(leaf) is not np.ndarray and isinstance(leaf, jax.Array):
                return program(*args, **kwargs)
        return function(*args, **kwargs)

    return cast(F, chosen)


def rows_of(values: AnyArray, places: np.ndarray) -> AnyArray:
    """The entries at these places of the first axis."""
    return cast(AnyArray, np.asarray(values)[places]) if is_on_host(values) else values[places]


def as_jax(values: Any, dtype: DTypeLike | None = None) -> Array:
    """Known values as an array of JAX, for which `jnp.asarray` compiles a program for each shape.

    Without a type, numbers of 64 bits become those of 32 unless `jax_enable_x64` is set.
    """
    return jax.device_put(np.asarray(values, dtype))


def aligned(values: np.ndarray) -> np.ndarray:
    """The values in an array that begins at a line of a processor's cache.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.support.arrays import aligned
        >>> found = aligned(np.arange(3))
        >>> found.tolist(), found.ctypes.data % 64
        ([0, 1, 2], 0)
    """
    memory = np.empty(values.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    found[...] = values
    return found


def cached(thing: Any, name: str, function: Callable[[Any], Any]) -> Any:
    """The value of a function of something immutable, computed once if its arrays are known."""
    cache = thing.__dict__.setdefault("_cache", {})
    if name in cache:
        return cache[name]
    if not all_known(thing):
        return function(thing)
    with jax.ensure_compile_time_eval():
        cache[name] = function(thing)
    return cache[name]


def share_cache(original: Any, changed: Any) -> Any:
    """`changed`, which differs from `original` in nothing that cached values depend on."""
    changed.__dict__["_cache"] = original.__dict__.setdefault("_cache", {})
    return changed


def for_batches(values: Any, shape: Shape, dtype: Any) -> AnyArray:
    """Values that broadcast to the neurons of a layer, with as many axes as a batch of these."""
    numbers: Any = np if isinstance(values, np.ndarray) else jnp
    values = numbers.asarray(values, dtype)
    if values.ndim == 0:
        return values
    return values.reshape((1,) * (1 + len(shape) - values.ndim) + values.shape)


def is_finite(value: Any) -> Any:
    """Where numbers of NumPy or JAX are finite."""
    return abs(value) < np.inf


def all_true(condition: Callable[[Any], Any], value: ArrayLike) -> bool:
    """Whether a condition holds everywhere; a tracer passes, since nothing is known of it."""
    if not is_known(value):
        return True
    if is_on_host(value):  # without a program for each shape, and in parts: it may be a mapped file
        array = np.asarray(value)
        if array.size <= _LARGEST_PART:
            return bool(condition(array).all())
        rows = max(1, _LARGEST_PART // prod(array.shape[1:]))
        return all(condition(array[n : n + rows]).all() for n in range(0, len(array), rows))
    with jax.ensure_compile_time_eval():  # under jit, operations on known arrays are traced too
        return bool(jnp.all(condition(value)))
