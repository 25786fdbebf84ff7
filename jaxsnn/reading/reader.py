"""The way from a model to a `Network`, and the checks of what comes in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxsnn.network import Network, Shape
from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.interpreter import interpret
from jaxsnn.reading.maxima import settled
from jaxsnn.reading.origins import Names
from jaxsnn.reading.signals import Signal
from jaxsnn.reading.simplify import layers_of
from jaxsnn.reading.tracing import Model, evaluation_form, opened, trace
from jaxsnn.support.typed import Images, typed


@typed
def read_network(model: Model, example: Images, *, output: int | str | None = None) -> Network:
    """Read the linear operations between the ReLUs of a model, with their weights.

    Args:
        model: a Flax NNX module, a bound Linen module (`module.bind(variables)`), a module of
            PyTorch (by torchax), or any JAX function from a batch of images `[B, ...]` to the
            outputs `[B, ...]`. Modules of NNX and PyTorch are read in evaluation mode, without
            dropout; the model itself is not changed.
        example: a batch of images, of any size; only its shape matters.
        output: which array to read of a model that returns several: its first index or key, such
            as 0 or "logits", or its path as in `jax.tree_util.keystr`, such as "['aux'][0]".

    Returns:
        The network, with one layer for each ReLU, whose `name` says where it stands in the model.
        `neurons.clip_floor` is a ReLU with a ceiling and levels, in place of the ReLU of its layer.
        Batch norm and other constant factors and terms become part of the weights and the biases.
        Average pooling with a ReLU after it is a layer of its own; without, it belongs to the next
        layer. So is max pooling where a ReLU is before it or next, with positive factors at most
        between; any other is a sum of ReLUs, by max(a, b) = b + relu(a - b). A last layer without a
        ReLU has linear outputs, such as logits. Neurons keep the model's own layout; a value that
        the model copies by broadcasting stays one neuron where that is exact.

    Raises:
        ReadingError: the model has an operation that is not linear (the message names it, its line
            in your source and the remedy), no ReLU, several outputs of which none is chosen, or
            weights that are not finite.
        ImportError: a module of PyTorch, and torchax is missing or too old.
        ValueError: the example is not a batch of images.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> from flax import nnx
        >>> model = jaxsnn.networks.FullyConnected((4, 8, 3), rngs=nnx.Rngs(0))
        >>> network = jaxsnn.read_network(model, jnp.zeros((1, 2, 2, 1)))
        >>> network.shapes
        [(8,), (3,)]
    """
    shape, dtype = _check_example(example)
    function, names = evaluation_form(model)
    try:
        network = _read(function, names, shape[1:], dtype, output)
    except ReadingError as error:
        unsupported = str(error).startswith("unsupported operation")
        flat = len(shape) == 2 and shape[0] == 1  # a batch of one image, if any is
        if not (unsupported or flat) and _can_be_read(function, names, shape, dtype, output):
            raise ReadingError(
                f"the example of shape {shape} looks like one image without a batch axis: give "
                "images[:1] or image[None]."
            ) from error
        raise
    _check_weights(network)
    return network


def _check_example(example: ArrayLike) -> tuple[Shape, Any]:
    """Shape and type of the example, if it can be a batch of images."""
    shape, dtype = np.shape(example), jnp.result_type(example)
    remedy = "give floats in [0, 1], such as train.images[:1]"
    if dtype == np.bool_:
        remedy = "convert it: example.astype('float32')"
    elif jnp.issubdtype(dtype, jnp.integer):
        remedy = "give floats in [0, 1]: divide 8-bit pixels by 255"
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"the example has dtype {dtype}, but pixels are floats: {remedy}.")
    if len(shape) < 2 or 0 in shape[1:]:
        raise ValueError(
            f"the example has shape {shape}, but must be a batch of images [B, ...], such as "
            "train.images[:1]; a single image needs a batch axis: image[None]."
        )
    return shape, dtype


def _read(
    function: Callable[[Any], Any],
    names: Names,
    image_shape: Shape,
    dtype: Any,
    output: int | str | None,
) -> Network:
    """The network of a function of images of this shape."""
    closed = trace(function, image_shape, dtype, output)
    with jax.ensure_compile_time_eval():  # inside of jit, too
        (value,) = interpret(*opened(closed), [Signal.of_images(image_shape)], names)
        network = Network(layers_of(settled(value)), image_shape)
    expected = closed.out_avals[0].shape[1:]
    assert network.shapes[-1] == expected, f"{network} should end in {expected}"
    return network


def _can_be_read(function: Callable[[Any], Any], *how: Any) -> bool:
    try:
        _read(function, *how)
    except ReadingError:
        return False
    return True


def _check_weights(network: Network) -> None:
    for index, layer in enumerate(network.layers):
        for weights in jax.tree.leaves(layer):
            bad = int(np.sum(~np.isfinite(weights)))
            if bad:
                raise ReadingError(
                    f"{network.name(index)} has {bad} weights that are NaN or infinite; "
                    "its training diverged: train again with a smaller learning rate."
                )
