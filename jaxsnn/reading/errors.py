"""What cannot be read: the errors, which name the user's source line and the remedy."""

from __future__ import annotations

from jaxsnn.reading.origins import Origin


class ReadingError(ValueError):
    """The model has a part that cannot be converted to spiking neurons; the message says where.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> try:
        ...     jaxsnn.read_network(lambda x: jnp.tanh(x), jnp.zeros((1, 2)))
        ... except jaxsnn.ReadingError as error:
        ...     print(str(error).split(" at ")[0])
        unsupported operation tanh
    """


class UnsupportedError(ReadingError):
    """There is no handler for the primitive."""

    def __init__(self, primitive: str):
        super().__init__(_REMEDIES.get(primitive, _WHAT_IS_SUPPORTED))


def explained(primitive: str, error: ReadingError, origin: Origin) -> ReadingError:
    """The error of an operation, with its source line and the module that it belongs to."""
    module, line = origin.module, origin.line
    if module == "BatchNorm":
        return ReadingError(f"{module} at {line}: {_BATCH_STATISTICS}")
    if module in ("LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"):
        return ReadingError(f"{module} at {line}: {_NORM}")
    unsupported = "unsupported operation " if isinstance(error, UnsupportedError) else ""
    within = module or origin.function
    within = f" in {within}" if within not in ("", primitive) else ""
    return ReadingError(f"{unsupported}{primitive}{within} at {line}: {error}")


MAXIMUM = (
    "a max pooling of values that may be negative can be read where a ReLU follows it, with batch "
    "norm or a bias at most between; put the ReLU before the pooling, or right after it."
)
PADDING = "give the padding to the convolution or pooling that follows (padding=...)"
NOT_A_RELU = "train the model with ReLUs (nnx.relu, jax.nn.relu or jnp.maximum(x, 0)) instead."
TWO_SIGNALS = "the product of two values that depend on the images is not linear."

_BATCH_STATISTICS = (
    "it computes statistics of the batch, as in training mode; read the model in evaluation mode "
    "(model.eval(), use_running_average=True)."
)
_NORM = (
    "it divides by statistics of each image, which is not linear; train the model without it. "
    "(Constant factors, x * factors, can be read.)"
)
_WHAT_IS_SUPPORTED = (
    "between two ReLUs there may be dense layers, convolutions, batch norm, poolings, sums, "
    "slices and concatenations, reshape, transpose, broadcasting, and constant factors and terms."
)
_REMEDIES = {
    "reduce_max": "a maximum is not linear: use average pooling; and return without softmax.",
    "argmax": "let the model return the outputs of its last ReLU, not the class.",
    "exp": "let the model return its ReLU outputs, without softmax.",
    "while": (
        "write the loop as a Python `for` loop, or as a lax.fori_loop whose bounds are numbers, "
        "which are unrolled."
    ),
    **dict.fromkeys(("tanh", "logistic", "erf", "erfc", "expm1", "sign", "ne", "eq"), NOT_A_RELU),
    **dict.fromkeys(
        ("pow", "integer_pow", "square", "sqrt", "rsqrt", "log"), f"not linear; {NOT_A_RELU}"
    ),
}
