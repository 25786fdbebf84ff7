"""Random bits from a counter: Threefry, written out so that XLA turns it into straight code.

A draw is a function of a key and a number alone. It does not depend on the batch, on the device,
or on what else is drawn, and the event-driven engine computes the very same bits.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, UInt

from jaxsnn.support.arrays import AnyArray, is_known, numbers_of

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
ROUNDS_OF_FOUR = 5
DRAWS_PER_BLOCK = 4


def threefry(key: tuple[Any, Any], first: Any, second: Any) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds: two words of 32 bits from a key and a counter of two words.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

    Args:
        key: the two words of the key, unsigned integers of 32 bits.
        first: the first word of the counter.
        second: the second word.

    Returns:
        Two words, of the shape that all arguments broadcast to.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.support.random import threefry
        >>> zero = jnp.zeros((), jnp.uint32)
        >>> [hex(word) for word in threefry((zero, zero), zero, zero)]
        ['0x6b200159', '0x99ba4efe']
    """
    keys = (*key, key[0] ^ key[1] ^ np.uint32(PARITY))
    first, second = first + keys[0], second + keys[1]
    for group in range(ROUNDS_OF_FOUR):
        for distance in ROTATIONS[group % 2]:
            first = first + second
            second = first ^ ((second << distance) | (second >> (32 - distance)))
        first = first + keys[(group + 1) % 3]
        second = second + keys[(group + 2) % 3] + np.uint32(group + 1)
    return first, second


def bits_16(key: Array, count: int) -> UInt[Array, " count"]:
    """So many draws of 16 bits, as integers of 32 bits.

    Block b, which is Threefry of the counter (0, b), has the draws b, b + n, b + 2n and b + 3n,
    where n is the number of blocks: the lower and the upper halves of its two words.

    Args:
        key: a JAX key of Threefry.
        count: the number of draws.

    Returns:
        The draws, from 0 to 65,535.

    Example:
        >>> import jax
        >>> from jaxsnn.support.random import bits_16
        >>> draws = bits_16(jax.random.key(0), 6)
        >>> draws.shape, bool((draws < 1 << 16).all())
        ((6,), True)
    """
    words = jax.random.key_data(key)
    blocks = jnp.arange(ceil(count / DRAWS_PER_BLOCK), dtype=jnp.uint32)
    # The barrier keeps XLA from computing a block once for each of its draws.
    one, two = lax.optimization_barrier(
        threefry((words[0], words[1]), jnp.zeros_like(blocks), blocks)
    )
    halves = one & 0xFFFF, one >> 16, two & 0xFFFF, two >> 16
    return jnp.concatenate(halves)[:count]


# -- Keys ------------------------------------------------------------------------------------------


def sample_keys(key: ArrayLike, samples: ArrayLike) -> UInt[AnyArray, "batch 2"]:
    """The key of each sample as words, which depends on its number and not on its place in a batch.

    Args:
        key: a JAX key or an integer seed from 0 to 2**32 - 1.
        samples: the number of each sample.

    Raises:
        ValueError: a seed out of range, which JAX would wrap around, or no single key.

    Example:
        >>> import jax, numpy as np
        >>> from jaxsnn.support.random import sample_keys
        >>> sample_keys(0, np.arange(3))[2].tolist() == sample_keys(0, np.array([2]))[0].tolist()
        True
    """
    dtype = getattr(key, "dtype", int)
    if is_known(key) and np.ndim(key) == 0 and jnp.issubdtype(dtype, np.integer):
        seed = int(cast(Any, key))
        check_seed(seed)
        if is_known(samples):
            return _folded_seed(seed, np.asarray(samples, np.uint32).tobytes()).copy()
        return _folded(cast(AnyArray, np.array([0, seed], np.uint32)), samples)
    words = jax.random.key_data(threefry_key(key))
    return _folded(cast(AnyArray, np.asarray(words)) if is_known(words) else words, samples)


@lru_cache(maxsize=8)
def _folded_seed(seed: int, samples: bytes) -> UInt[AnyArray, "batch 2"]:
    """As `_folded`, of an integer; it takes as long as a few steps of a single sample."""
    return _folded(
        cast(AnyArray, np.array([0, seed], np.uint32)), np.frombuffer(samples, np.uint32)
    )


def _folded(words: AnyArray, samples: ArrayLike) -> UInt[AnyArray, "batch 2"]:
    """The words of `jax.random.fold_in(key, sample)`: Threefry of the counter (0, sample)."""
    numbers = numbers_of((words, samples))
    # NumPy is much faster at a number without axes, as that of a single sample.
    counter = numbers.squeeze(numbers.asarray(samples).astype(np.uint32))
    with np.errstate(over="ignore"):
        found = threefry((words[0], words[1]), numbers.zeros_like(counter), counter)
    return numbers.asarray(found).reshape(2, -1).T.copy()  # each key in one place, for kernels


def check_seed(seed: int, name: str = "key") -> None:
    """Raise ValueError where JAX would take a seed for another one.

    Example:
        >>> from jaxsnn.support.random import check_seed
        >>> check_seed(1 << 32)
        Traceback (most recent call last):
        ...
        ValueError: key=4294967296; an integer seed must be from 0 to 4294967295.
    """
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"{name}={seed}; an integer seed must be from 0 to {(1 << 32) - 1}.")


def threefry_key(key: ArrayLike) -> Array:
    """The key as one of Threefry, whose draws do not depend on the place in a batch."""
    typed = jnp.asarray(key)
    if typed.ndim == 0 and jnp.issubdtype(typed.dtype, jnp.integer):  # a traced seed
        return jax.random.key(typed, impl="threefry2x32")
    if typed.dtype == jnp.uint32 and typed.shape == (2,):
        typed = jax.random.wrap_key_data(typed, impl="threefry2x32")
    if typed.shape != () or not jnp.issubdtype(typed.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"key has shape {typed.shape} and dtype {typed.dtype}; give one key, such as "
            "jax.random.key(0), or an integer."
        )
    if str(jax.random.key_impl(typed)) == "threefry2x32":
        return typed
    return jax.random.wrap_key_data(jax.random.bits(typed, (2,), jnp.uint32), impl="threefry2x32")
