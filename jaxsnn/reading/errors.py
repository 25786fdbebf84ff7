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
    named = _REMEDIES_OF_FUNCTIONS.get(module.lower(), error)  # as in torch.nn.Softmax
    error = ReadingError(_REMEDIES_OF_FUNCTIONS.get(origin.function, named))
    within = module or origin.function
    within = f" in {within}" if within not in ("", primitive) else ""
    return ReadingError(f"{unsupported}{primitive}{within} at {line}: {error}")


NOT_A_RELU = (
    "train the model with ReLUs (nnx.relu, jax.nn.relu, nn.ReLU or jnp.maximum(x, 0)) instead."
)
TWO_SIGNALS = (
    "the product of two values that depend on the images is not linear; train the model without "
    "it, also without gates, attention, and squeeze-and-excite blocks."
)
A_QUOTIENT = (
    "dividing by a value that depends on the images is not linear; train the model without it, or "
    "divide by a constant."
)

_BATCH_STATISTICS = (
    "it computes statistics of the batch, as in training mode; read the model in evaluation mode "
    "(model.eval(), use_running_average=True)."
)
_NORM = (
    "it divides by statistics of each image, which is not linear; train the model without it. "
    "(Constant factors, x * factors, can be read.)"
)
_OTHER = "train the model with {}, which is piecewise linear, or with ReLUs instead."
_WHAT_IS_SUPPORTED = (
    "it cannot be read. Between two ReLUs there may be dense layers, convolutions, batch norm, "
    "poolings, sums, slices and concatenations, reshape, transpose, broadcasting, and constant "
    "factors and terms; also activations of linear pieces, such as relu6, leaky_relu, hard_tanh "
    "and clip."
)
_REMEDIES = {
    "argmax": "let the model return its outputs, such as logits, and not the class.",
    **dict.fromkeys(("reduce_prod", "cumprod"), TWO_SIGNALS),
    **dict.fromkeys(("sort", "top_k"), "sorting is not linear; train without it."),
    "while": (
        "write the loop as a Python `for` loop, or as a lax.fori_loop whose bounds are numbers, "
        "which are unrolled."
    ),
    "tanh": _OTHER.format("hard_tanh"),
    "logistic": _OTHER.format("hard_sigmoid"),
    **dict.fromkeys(
        ("erf", "erfc", "sign", "floor", "ceil", "round", "sin", "cos", "ne", "eq"), NOT_A_RELU
    ),
    **dict.fromkeys(
        ("exp", "expm1", "log", "log1p", "pow", "integer_pow", "square", "sqrt", "rsqrt"),
        f"it is not linear; {NOT_A_RELU}",
    ),
}
_REMEDIES_OF_FUNCTIONS = {
    **dict.fromkeys(
        ("softmax", "log_softmax", "logsoftmax", "logsumexp"),
        "it cannot be read. If it is the last operation, let the model return the logits before "
        "it, of which the largest is the same; elsewhere, as in attention, train without it.",
    ),
    **dict.fromkeys(
        ("gelu", "silu", "hard_silu", "elu", "celu", "selu", "softplus", "squareplus", "mish"),
        NOT_A_RELU,
    ),
    **dict.fromkeys(("soft_sign", "log_sigmoid", "glu"), NOT_A_RELU),
    "tanh": _OTHER.format("hard_tanh"),
    "sigmoid": _OTHER.format("hard_sigmoid"),
    "standardize": _NORM,
}
