"""Training of the ReLU networks: recipes, a compiled loop over epochs, checkpoints.

Everything random in step i of epoch e comes from a key folded from (seed, e, i). Hence the same
seed gives the same weights, and a run resumed from a checkpoint ends in the very bits of one that
was never stopped. What a model keeps beside its weights, such as the statistics of batch norm, is
part of the state of a training, and of its checkpoints.

Training your own network: an output neuron may be silent for every image of its class, and a ReLU
passes no gradient there, so a loss on the outputs of the last ReLU can lose whole classes for good.
Take the loss on what enters the last ReLU. `cross_entropy` and `one_sided_squared_error` do: give
your class a method `logits(images)` that returns this, and let its call return
`nnx.relu(self.logits(images))`. In a training loop of your own, compute the loss from the values
before the last ReLU, and convert the model with the ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from tqdm import tqdm

from jaxsnn.metrics import checked_labels, real_numbers
from jaxsnn.paper.recipes import Recipe
from jaxsnn.support.checkpoints import Checkpoints, History
from jaxsnn.support.digests import digest
from jaxsnn.support.typed import Count, described, typed

# What a step leaves for the next one beside the weights: random streams start anew in each step.
_KEPT = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))


@runtime_checkable
class LabelledImages(Protocol):
    """Images `[N, ...]`, floating point in [0, 1], and their labels `[N]`, integers."""

    @property
    def images(self) -> Any:
        """Pixels."""
        ...

    @property
    def labels(self) -> Any:
        """Classes."""
        ...


@typed
def accuracy(
    model: nnx.Module | Callable[..., Any], dataset: LabelledImages, *, batch_size: Count = 1000
) -> float:
    """Return the fraction of images whose label has the largest score.

    Args:
        model: a Flax NNX module, taken in its evaluation form whatever its mode, or any function
            from images `[B, ...]` to scores `[B, classes]`.
        dataset: images and labels, such as a `Dataset`.
        batch_size: images per call.

    Raises:
        ValueError: the set is empty, its images or labels are none, or the model does not return
            finite scores for each image.

    Example:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> data = SimpleNamespace(images=jnp.eye(4), labels=jnp.array([0, 1, 2, 0]))
        >>> accuracy(lambda images: images, data)
        0.75
    """
    images, labels = _images_and_labels(dataset, "set")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; it must be at least 1")
    function = partial(_scores, *nnx.split(model)) if isinstance(model, nnx.Module) else model
    right = 0
    for start in range(0, len(labels), batch_size):
        batch = slice(start, start + batch_size)
        scores = _checked_scores(function, images[batch])
        right += int(
            (scores.argmax(-1) == checked_labels(labels[batch], classes=scores.shape[1])).sum()
        )
    return right / len(labels)


def _checked_scores(function: Callable[..., Any], images: np.ndarray) -> np.ndarray:
    """A model's scores for some images, or ValueError where they are none."""
    try:
        scores = function(jnp.asarray(images))
    except Exception as error:
        raise ValueError(
            f"the model cannot take the set's images of shape {images.shape[1:]}: {error}"
        ) from error
    found = real_numbers("the model's scores", scores)
    if found.ndim != 2 or len(found) != len(images) or not found.shape[1]:
        raise ValueError(
            f"the model returns scores of shape {found.shape} for {len(images)} images; it must "
            "return [B, classes]"
        )
    return found


@typed
def fit(
    model: nnx.Module,
    train: LabelledImages,
    *,
    recipe: Recipe,
    seed: Count = 0,
    checkpoint: str | PathLike[str] | None = None,
    test: LabelledImages | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place and leave it in evaluation mode.

    A model of your own needs a loss on what enters its last ReLU, or classes may be lost: the top
    of this module says how.

    Args:
        model: a Flax NNX module from images to scores `[B, classes]`; its `nnx.Param` variables are
            trained, and what its training form changes beside them, such as the statistics of
            batch norm, is kept from step to step.
        train: training set.
        recipe: how to train, for instance `RECIPES["fc-modern"]`.
        seed: of the order of the images, the dropout and the augmentation, from 0 to 2³² - 1. The
            weights the model comes with are where training starts.
        checkpoint: folder that keeps the last finished epoch. A run that was stopped resumes there
            when called again. The folder of another run, and one with a damaged file, is an error.
        test: set to measure the accuracy on after every epoch.
        progress: whether to show a progress bar.

    Returns:
        One row per epoch: the mean `loss` and `accuracy` over its steps and, with a test set, the
        `test_accuracy` after it.

    Raises:
        ValueError: for a set that cannot be trained on, a recipe whose functions return something
            else, or a checkpoint that is damaged or of another run.
        OSError: the checkpoint cannot be read or written. The model has its last weights.
        FloatingPointError: if the loss is no longer a finite number.

    Example:
        >>> from dataclasses import replace
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> labels = np.arange(60) % 3
        >>> data = SimpleNamespace(images=np.eye(3, dtype="float32")[labels], labels=labels)
        >>> from jaxsnn.paper.recipes import RECIPES, FullyConnected
        >>> model = FullyConnected((3, 8, 3), rngs=nnx.Rngs(0))
        >>> recipe = replace(RECIPES["fc-authors"], batch_size=10, epochs=5)
        >>> history = fit(model, data, recipe=recipe, progress=False)
        >>> history[-1]["loss"] < history[0]["loss"]
        True
    """
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed={seed}; it must be from 0 to 2**32 - 1")
    data = _check(model, train, "training set", at_least=recipe.batch_size)
    if test is not None:
        _check(model, test, "test set")
    store = None if checkpoint is None else Checkpoints(checkpoint)
    model.train()
    graph, params, kept, rest = nnx.split(model, nnx.Param, _KEPT, ...)
    if not jax.tree.leaves(params):
        raise ValueError("the model has no nnx.Param, so there is nothing to train")
    steps = len(data[1]) // recipe.batch_size
    optimizer = _optimizer(recipe, steps * recipe.epochs)
    state, history = (params, optimizer.init(params), kept), []
    key = jax.random.key(seed)
    # Lowered and compiled by hand: one program for all steps, and its text is the run's identity.
    lowered = jax.jit(partial(_step, recipe, optimizer, graph, rest)).lower(
        state, jnp.zeros(2), data, _order(key, len(data[1]), recipe), np.int32(0), key
    )
    identity = _identity(lowered, params, kept, data, recipe, seed)
    if store is not None:
        state, history = store.load(state, identity)
    done, epochs = len(history), recipe.epochs
    step: Any = lowered.compile() if done < epochs else None
    if store is not None and done < epochs:
        store.check_writable()
    with tqdm(
        initial=done, total=epochs, desc=recipe.name, unit="epoch", disable=not progress
    ) as bar:
        for epoch in range(done, epochs):
            order_key, steps_key = jax.random.split(jax.random.fold_in(key, epoch))
            order, totals = _order(order_key, len(data[1]), recipe), jnp.zeros(2)
            for index in range(steps):
                state, totals = step(state, totals, data, order, np.int32(index), steps_key)
            row = _row(totals / steps, recipe, epoch)
            _update(model, state)
            if test is not None:
                row["test_accuracy"] = accuracy(model, test)
            history.append(row)
            if store is not None:
                store.save(state, history, identity)
            bar.set_postfix({name: f"{value:.4f}" for name, value in row.items()}, refresh=False)
            bar.update()
    _update(model, state)
    model.eval()
    return history


def _update(model: nnx.Module, state: tuple[Any, Any, Any]) -> None:
    """Give a model the weights of a training's state, and what is kept beside them."""
    params, _, kept = state
    nnx.update(model, params, kept)


def _order(key: Array, images: int, recipe: Recipe) -> Array:
    """Return an epoch's batches as indices, `[steps, batch]`."""
    steps, rest = divmod(images, recipe.batch_size)
    order = jax.random.permutation(key, images)
    return order[: len(order) - rest].reshape(steps, recipe.batch_size)


def _optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    found = _called("optimizer", recipe.optimizer, steps)
    if not isinstance(found, optax.GradientTransformation):
        raise TypeError(
            f"the recipe's optimizer returns {described(found)}; it must return an optimizer of "
            "Optax, such as lambda steps: optax.adam(1e-3)"
        )
    return found


def _called(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a function of the recipe returns; its error, if any, with its name."""
    try:
        return function(*args)
    except Exception as error:
        raise ValueError(f"the recipe's {name} failed: {error}") from error


def _augmented(recipe: Recipe, key: Array, images: Array) -> Array:
    found = _called("augment", recipe.augment, key, images)
    if not isinstance(found, jax.Array) or found.shape != images.shape:
        raise ValueError(
            f"the recipe's augment returns {described(found)} for images of shape {images.shape}; "
            "it must return images of that shape"
        )
    return found


def _loss(recipe: Recipe, model: nnx.Module, images: Array, labels: Array) -> tuple[Array, Array]:
    found = _called("loss", recipe.loss, model, images, labels)
    parts = found if isinstance(found, tuple) else (found,)
    axes = [part.ndim if isinstance(part, jax.Array) else None for part in parts]
    if axes != [0, 2]:
        raise ValueError(
            f"the recipe's loss returns {', '.join(map(described, parts))}; it must return one "
            "number and the scores [B, classes], as arrays of JAX"
        )
    return cast(tuple[Array, Array], parts)


def _row(means: Array, recipe: Recipe, epoch: int) -> dict[str, float]:
    """Return an epoch's row of the history, or raise if its loss is no number."""
    loss, right = (float(mean) for mean in means)
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"the training with recipe {recipe.name!r} diverged in epoch {epoch + 1}: the loss is "
            f"{loss}; lower the learning rate"
        )
    return {"loss": loss, "accuracy": right}


@partial(jax.jit, static_argnums=0)
def _scores(graph: Any, state: Any, images: Array) -> Array:
    model = nnx.merge(graph, state)
    model.eval()
    return model(images)


def _step(recipe, optimizer, graph, rest, state, totals, data, order, index, key):
    """Take one step on the images of batch `index`; adds its loss and accuracy to the totals."""
    (params, optimizer_state, kept), (images, labels) = state, data
    batch = order[index]
    augment_key, model_key = jax.random.split(jax.random.fold_in(key, index))
    images, labels = _augmented(recipe, augment_key, images[batch]), labels[batch]

    def objective(params):
        model = nnx.merge(graph, params, kept, rest, copy=True)
        _reseed(model, model_key)
        loss, scores = _loss(recipe, model, images, labels)
        return loss, (scores, nnx.state(model, _KEPT))

    (loss, (scores, kept)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    right = (scores.argmax(-1) == labels).mean()
    totals += jnp.stack([loss, right])
    return (optax.apply_updates(params, updates), optimizer_state, kept), totals


def _reseed(model: nnx.Module, key: Array) -> None:
    """Start every random stream of a model anew, whatever its name, each from a key of its own."""
    streams = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)]
    for index, stream in enumerate(streams):
        stream.key.set_value(jax.random.fold_in(key, index))
        stream.count.set_value(jnp.zeros_like(stream.count.get_value()))


def _images_and_labels(dataset: LabelledImages, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A set's images and labels as arrays, or ValueError where they are none or do not match."""
    images = real_numbers(f"the images of the {name}", dataset.images)
    labels = np.asarray(checked_labels(dataset.labels, name=f"the labels of the {name}"))
    if labels.ndim != 1 or images.shape[:1] != labels.shape:
        raise ValueError(
            f"the {name} has images of shape {images.shape} and labels of shape {labels.shape}; "
            f"it needs one label per image"
        )
    if not len(labels):
        raise ValueError(f"the {name} is empty")
    return images, labels


def _check(
    model: nnx.Module, dataset: LabelledImages, name: str, *, at_least: int = 1
) -> tuple[Array, Array]:
    """Images and labels; raise before long work what would fail, or go wrong, in the middle."""
    images, labels = _images_and_labels(dataset, name)
    if len(labels) < at_least:
        raise ValueError(f"the {name} has {len(labels)} images, fewer than one batch of {at_least}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"the {name} needs images of floating-point numbers in [0, 1], not {images.dtype}; "
            "divide 8-bit pixels by 255"
        )
    low, high = images.min(), images.max()
    if low < 0 or high > 1 + 1e-6:
        raise ValueError(f"the {name} has pixels in [{low}, {high}]; they belong in [0, 1]")
    try:
        scores = jax.eval_shape(partial(_scores, *nnx.split(model)), jnp.asarray(images[:1]))
    except Exception as error:
        raise ValueError(
            f"the model cannot take the {name}'s images of shape {images.shape[1:]}: {error}"
        ) from error
    shape = getattr(scores, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        found = described(scores) if shape is None else f"scores of shape {shape}"
        raise ValueError(f"the model returns {found} for one image; it must return [B, classes]")
    if labels.max() >= shape[1]:
        raise ValueError(
            f"the {name} has labels from {labels.min()} to {labels.max()}; the model has "
            f"{shape[1]} classes, 0 to {shape[1] - 1}"
        )
    return jnp.asarray(images), jnp.asarray(labels)


def _identity(lowered, params, kept, data, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Describe a run by all that decides its result, so that no other takes up its checkpoint.

    Functions cannot be compared, the compiled program can: it holds the network, optimizer, loss
    and augmentation with all their constants.
    """
    shapes = {
        jax.tree_util.keystr(path): list(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    return {
        "recipe": recipe.name,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "weights": shapes,
        "seed": seed,
        "initial weights": digest(*jax.tree.leaves((params, kept))),
        "training set": digest(*data),
        "program": digest(lowered.as_text()),
    }
