"""From a model to a jaxpr, the list of the primitive operations that JAX would run for it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Annotated, Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr
from jax.tree_util import keystr, tree_flatten_with_path

from jaxsnn.network import Shape
from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.origins import Names, line_of_error

Model = Annotated[
    Callable[[Any], Any],
    "a module of Flax or PyTorch, or a function from images [B, ...] to outputs [B, ...]",
]

# More than one image, so that a model that flattens the batch away is noticed, and a number that is
# rarely the size of another axis, so that constants are not mistaken for batches.
TRACED_BATCH = 13


def evaluation_form(model: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Names]:
    """The function that a model computes in evaluation mode, and the names of its weights.

    Raises:
        TypeError: what is given is no model.
    """
    name = getattr(model, "__name__", type(model).__name__)
    if isinstance(model, type):
        raise TypeError(f"{name} is a class: give read_network an instance of it, {name}(...).")
    if not callable(model):
        raise TypeError(f"a {name} is no model: give a module or a function of a batch of images.")
    if _is_of(model, "flax.nnx.Module"):
        return _evaluation_form_of_nnx(model)
    if _is_of(model, "torch.nn.Module"):
        return _evaluation_form_of_torch(model)
    owner: Any = getattr(model, "__self__", model)
    if not _is_of(owner, "flax.linen.Module"):
        return model, Names()
    if owner.scope is None:
        raise TypeError(
            f"{type(owner).__name__} is a Linen module without its variables: "
            "give read_network the bound module, model.bind(variables)."
        )
    return model, Names(_paths(list(owner.variables.values())))


def _evaluation_form_of_nnx(model: Any) -> tuple[Callable[[Any], Any], Names]:
    from flax import nnx

    graph, state = nnx.split(nnx.clone(model))

    def forward(images: Any) -> Any:
        # Made inside the trace, where a model may count its calls or sow values.
        traced = nnx.merge(graph, state, copy=True)
        traced.eval()
        return traced(images)

    return forward, Names(_paths([nnx.to_pure_dict(state)]))


def _evaluation_form_of_torch(module: Any) -> tuple[Callable[[Any], Any], Names]:
    try:
        from torchax import extract_jax  # pyright: ignore[reportMissingImports]
    except (ImportError, AttributeError) as error:  # an older one misses what PyTorch 2.13 removed
        raise ImportError(
            "a module of PyTorch is read by torchax, which is missing or older than your PyTorch: "
            'pip install "jaxsnn-conversion[torch]".'
        ) from error
    weights, function = extract_jax(deepcopy(module).cpu().eval())
    names = Names((name.rpartition(".")[0], value) for name, value in weights.items())
    return lambda images: function(weights, (images,)), names


def _paths(trees: list[Any]) -> Iterator[tuple[str, Any]]:
    """The weights of a model, each with the path of the layer that it belongs to."""
    for tree in trees:
        for path, weights in jax.tree_util.tree_leaves_with_path(tree):
            yield ".".join(str(getattr(key, "key", key)) for key in path[:-1]), weights


def _is_of(value: object, *classes: str) -> bool:
    """Whether a value is an instance of one of these classes.

    Their packages are slow to import, and are imported already where there is such a value.
    """
    paths = (name.rpartition(".") for name in classes)
    found = (getattr(sys.modules.get(path), name, None) for path, _, name in paths)
    return isinstance(value, tuple(kind for kind in found if isinstance(kind, type)))


def trace(
    model: Callable[[Any], Any], image_shape: Shape, dtype: Any, output: int | str | None
) -> ClosedJaxpr:
    """The jaxpr of one output of a function of a batch of images, without what others need."""
    batch = jax.ShapeDtypeStruct((TRACED_BATCH, *image_shape), dtype)
    try:
        closed, outputs = jax.make_jaxpr(model, return_shape=True)(batch)
    except Exception as error:
        if _is_of(error, "flax.errors.TraceContextError"):
            raise ReadingError(
                "the function changes an NNX model, as dropout and batch norm in training mode do: "
                "call model.eval() first, or give read_network the model itself."
            ) from error
        line = line_of_error(error)
        raise ReadingError(
            f"the model fails{f' at {line}' if line else ''} for a batch of images of shape "
            f"{batch.shape}: {_remedy(error, image_shape)} ({type(error).__name__}: {error})"
        ) from error
    chosen = _chosen(outputs, output)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, chosen, instantiate=True)
    return ClosedJaxpr(jaxpr, closed.consts)


def _chosen(outputs: Any, output: int | str | None) -> list[bool]:
    """For each array that a model returns, whether it is the one that is asked for."""
    arrays, _ = tree_flatten_with_path(outputs)
    if output is None:
        chosen = [True for _ in arrays]
    else:
        # By its whole path, or by the first key of it.
        paths = [(keystr(path), keystr(path[:1], simple=True)) for path, _ in arrays]
        chosen = [str(output) in names for names in paths]
    if sum(chosen) == 1:
        return chosen
    if not arrays:
        raise ReadingError("the model returns no arrays; let it return its outputs.")
    found = ", ".join(
        f"{keystr(path) or 'output'} of shape [{', '.join(['B', *map(str, array.shape[1:])])}]"
        for path, array in arrays
    )
    several = "" if output is None else f"output={output!r} is {sum(chosen) or 'none'} of them; "
    count = "1 array" if len(arrays) == 1 else f"{len(arrays)} arrays"
    raise ReadingError(
        f"the model returns {count}: {found}; {several}choose one by its path, such as "
        f"read_network(model, images, output={keystr(arrays[0][0])!r})."
    )


# The values with which these arguments mean evaluation.
_EVALUATION = {"train": False, "training": False, "is_training": False, "deterministic": True}


def _remedy(error: Exception, image_shape: Shape) -> str:
    """What to do about an exception that the model raised."""
    if _is_of(error, "flax.errors.ModifyScopeVariableError", "flax.errors.InvalidRngError"):
        return (
            "it is in training mode; read it in evaluation mode, with the argument that your model "
            "has for this, such as read_network(lambda x: model(x, train=False), example)."
        )
    if _is_of(error, "torchax.tensor.OperatorNotFound"):
        return "torchax, which reads PyTorch, does not know this operation; use another."
    missing = re.search(r"missing .*argument.*?: .*?'(\w+)'", str(error))
    if isinstance(error, TypeError) and missing:
        call = "model(parameters, x)"
        if missing[1] in _EVALUATION:
            call = f"model(x, {missing[1]}={_EVALUATION[missing[1]]})"
        return (
            "it takes more than the images; give it the rest, such as "
            f"read_network(lambda x: {call}, example)."
        )
    if isinstance(
        error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError
    ):
        return (
            "it looks at values that depend on the images, as if, while, int(...) and functions of "
            "NumPy do; write it in jax.numpy, and without such branches."
        )
    if isinstance(error, TypeError | ValueError | ArithmeticError):
        channels = ""
        if len(image_shape) == 2:
            channels = " If the axis of the channel is missing: images[..., None]."
        elif len(image_shape) == 3 and image_shape[0] in (1, 3) and image_shape[-1] > 3:
            channels = " If the channels should be last: images.transpose(0, 2, 3, 1)."
        return f"it must take any number of images of this shape, as model(images).{channels}"
    return "it must run under jax.jit."


def opened(body: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A jaxpr and its constants, which JAX keeps in one object or in two."""
    return getattr(body, "jaxpr", body), getattr(body, "consts", ())
