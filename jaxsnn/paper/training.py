"""Training of the ReLU networks: recipes, a compiled loop over epochs, checkpoints.

Everything random in step i of epoch e comes from a key folded from (seed, e, i). Hence the same
seed gives the same weights, and a run resumed from a checkpoint ends in the very bits of one that
was never stopped.

Training your own network: an output neuron may be silent for every image of its class, and a ReLU
passes no gradient there, so a loss on the outputs of the last ReLU can lose whole classes for good.
Take the loss on what enters the last ReLU. `cross_entropy` and `one_sided_squared_error` do: give
your class a method `logits(images)` that returns this, and let its call return
`nnx.relu(self.logits(images))`. In a training loop of your own, compute the loss from the values
before the last ReLU, and convert the model with the ReLU.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax import Array
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike
from tqdm import tqdm

from jaxsnn.metrics import checked_labels, real_numbers
from jaxsnn.paper.networks import ConvNet, FullyConnected, symmetric_uniform
from jaxsnn.support.digests import digest
from jaxsnn.support.typed import Count, Images, Numbers, Real, described, typed

Loss = Callable[[Any, Array, Array], tuple[Array, Array]]
Augmentation = Callable[[Array, Array], Array]
Optimizer = Callable[[int], optax.GradientTransformation]
History = list[dict[str, float]]


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
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how a network is trained, but for the images and the seed.

    Attributes:
        name: what messages call it.
        model: builds the network that the recipe was made for, as `recipe.model(rngs=...)`. `fit`
            trains the model it is given, which may be another.
        epochs: passes over the training set, at least 1.
        batch_size: images per step. An epoch's last, incomplete batch is left out.
        optimizer: Optax optimizer for a given number of steps in the whole training.
        loss: (model, images, labels) ↦ (loss, scores `[B, classes]`), such as `cross_entropy` or
            `one_sided_squared_error`, which look at what enters the last ReLU: a loss on its
            outputs may lose classes for good (see the top of this module).
        augment: (key, images) ↦ images, applied in every step.

    Raises:
        ValueError: there are less than one epoch or image per step.

    Example:
        >>> import dataclasses
        >>> dataclasses.replace(RECIPES["fc-modern"], epochs=3).epochs
        3
    """

    name: str
    model: Callable[..., nnx.Module]
    epochs: Count
    batch_size: Count
    optimizer: Optimizer
    loss: Loss
    augment: Augmentation = lambda key, images: images

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; a recipe needs at least 1.")


@typed
def squared_error(
    model: Callable[..., Any], images: Images, labels: Numbers
) -> tuple[Array, Array]:
    """Return half the squared distance of the ReLU outputs to the one-hot labels, and the outputs.

    A class whose output neuron falls silent on all of its images is lost for good; where this
    happens, take `one_sided_squared_error`.

    The half and the sum over classes, with a mean over the batch, are those of the paper's code:
    its learning rate of 1 belongs to this loss.

    Example:
        >>> import jax.numpy as jnp
        >>> loss, _ = squared_error(lambda x: x, jnp.array([[0.0, 0.5]]), jnp.array([1]))
        >>> float(loss)
        0.125
    """
    outputs = model(images)
    labels = _one_for_each(outputs, labels)
    errors = outputs - jax.nn.one_hot(labels, outputs.shape[-1])
    return (errors**2).sum(-1).mean() / 2, outputs


@typed
def one_sided_squared_error(model: Any, images: Images, labels: Numbers) -> tuple[Array, Array]:
    """Return `squared_error`, but with a gradient for the right class where its ReLU is silent.

    The squared error of ReLU outputs has none there, and a class whose output neuron falls silent
    on all of its images is lost for good. Here the right class is measured before the ReLU.

    Args:
        model: what has a method `logits` from images to the input of its last ReLU.
        images: images `[B, ...]`.
        labels: their classes `[B]`.

    Example:
        >>> model = FullyConnected((4, 10), kernel_init=jax.nn.initializers.zeros, rngs=nnx.Rngs(0))
        >>> loss, _ = one_sided_squared_error(model, jnp.ones((3, 4)), jnp.array([0, 1, 2]))
        >>> float(loss)
        0.5
    """
    logits = _logits(model, images)
    labels = _one_for_each(logits, labels)
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    errors = jnp.where(right, 1 - logits, nnx.relu(logits))
    return (errors**2).sum(-1).mean() / 2, logits


@typed
def cross_entropy(model: Any, images: Images, labels: Numbers) -> tuple[Array, Array]:
    """Return the mean cross-entropy of the softmax of `model.logits`, and these logits.

    The logits are what enters the last ReLU. Cross-entropy of the outputs of that ReLU has no
    gradient for a class that is silent, and classes may never be predicted.

    Args:
        model: what has a method `logits` from images to the input of its last ReLU.
        images: images `[B, ...]`.
        labels: their classes `[B]`.

    Example:
        >>> import jax
        >>> model = FullyConnected((4, 10), kernel_init=jax.nn.initializers.zeros, rngs=nnx.Rngs(0))
        >>> loss, _ = cross_entropy(model, jnp.ones((3, 4)), jnp.array([0, 1, 2]))
        >>> round(float(loss), 3)  # log 10
        2.303
    """
    logits = _logits(model, images)
    labels = _one_for_each(logits, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits


def _logits(model: Any, images: ArrayLike) -> Array:
    """What enters the last ReLU of a model."""
    if not callable(getattr(model, "logits", None)):
        raise TypeError(
            f"the model, {described(model)}, has no method `logits`, and this loss needs what "
            "enters its last ReLU. Give its class a method logits(images) that returns this, with "
            "nnx.relu(self.logits(images)) as the value of a call, or write a loss of your own."
        )
    return model.logits(images)


def _one_for_each(scores: Array, labels: Numbers) -> Array:
    """Labels as an array, or ValueError where there is not one for each row of scores."""
    if jnp.ndim(scores) != 2:
        raise ValueError(
            f"the model returns {described(scores)}; it must return scores [B, classes]"
        )
    found = jnp.asarray(checked_labels(labels, classes=scores.shape[1]))
    if found.shape != scores.shape[:1]:
        raise ValueError(
            f"labels have shape {found.shape} and the model's scores {scores.shape}; there must be "
            "one label for each image"
        )
    return found


@typed
def random_warp(
    *, shift: Real = 2.0, distortion: Real = 0.15, elastic: Real = 0.0, cells: Count = 4
) -> Augmentation:
    """Return an augmentation that warps every image `[H, W, C]` of a batch on its own.

    An output pixel at position p, measured from the centre, is read by linear interpolation at
    (1 + D) p + s + e(p); outside the image is 0.

    Args:
        shift: largest absolute s in either direction, in pixels.
        distortion: largest absolute entry of D, which rotates, scales and shears.
        elastic: standard deviation of e in pixels, at the knots of a coarse grid between which it
            is interpolated.
        cells: knots of that grid per side.

    Raises:
        ValueError: an argument is negative or not finite, or there are no knots.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> images = jnp.ones((2, 8, 8, 1))
        >>> warp = random_warp(shift=1.0)
        >>> warp(jax.random.key(0), images).shape
        (2, 8, 8, 1)
    """
    for name, value in {"shift": shift, "distortion": distortion, "elastic": elastic}.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}={value:g}; it must be a finite number, not negative.")
    if cells < 1:
        raise ValueError(f"cells={cells}; there must be at least 1 knot per side.")

    def augment(key: Array, images: Array) -> Array:
        if images.ndim != 4:
            raise ValueError(
                f"random_warp takes images [B, height, width, channels], not {images.shape}"
            )
        batch, *size, _ = images.shape
        shift_key, distortion_key, elastic_key = jax.random.split(key, 3)
        uniform = partial(jax.random.uniform, minval=-1.0, maxval=1.0)
        matrices = jnp.eye(2) + distortion * uniform(distortion_key, (batch, 2, 2))
        offsets = shift * uniform(shift_key, (batch, 2, 1, 1))
        centre = (jnp.array(size) - 1.0).reshape(2, 1, 1) / 2
        positions = jnp.indices(size) - centre
        sources = jnp.einsum("bij,jhw->bihw", matrices, positions) + centre + offsets
        if elastic:
            knots = elastic * jax.random.normal(elastic_key, (batch, 2, cells, cells))
            sources += jax.image.resize(knots, (batch, 2, *size), "cubic")
        read = partial(map_coordinates, order=1)
        read_channels = jax.vmap(read, (-1, None), -1)
        return jax.vmap(lambda image, source: read_channels(image, list(source)))(images, sources)

    return augment


@typed
def accuracy(
    model: nnx.Module | Callable[..., Any], dataset: LabelledImages, *, batch_size: Count = 1000
) -> float:
    """Return the fraction of images whose label has the largest score.

    Args:
        model: a Flax NNX module, taken in its evaluation form whatever its mode, or any function
            from images `[B, ...]` to scores `[B, classes]`.
        dataset: what has `.images` and `.labels`.
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
            trained.
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
    store = None if checkpoint is None else _Store(checkpoint)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    if not jax.tree.leaves(params):
        raise ValueError("the model has no nnx.Param, so there is nothing to train")
    steps = len(data[1]) // recipe.batch_size
    optimizer = _optimizer(recipe, steps * recipe.epochs)
    state, history = (params, optimizer.init(params)), []
    key = jax.random.key(seed)
    # Lowered and compiled by hand: one program for all steps, and its text is the run's identity.
    lowered = jax.jit(partial(_step, recipe, optimizer, graph, rest)).lower(
        state, jnp.zeros(2), data, _order(key, len(data[1]), recipe), np.int32(0), key
    )
    identity = _identity(lowered, params, data, recipe, seed)
    if store is not None:
        state, history = store.load(state, identity)
    step = lowered.compile()
    done, epochs = len(history), recipe.epochs
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
            nnx.update(model, state[0])
            if test is not None:
                row["test_accuracy"] = accuracy(model, test)
            history.append(row)
            if store is not None:
                store.save(state, history, identity)
            bar.set_postfix({name: f"{value:.4f}" for name, value in row.items()}, refresh=False)
            bar.update()
    nnx.update(model, state[0])
    model.eval()
    return history


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
    (params, optimizer_state), (images, labels) = state, data
    batch = order[index]
    augment_key, model_key = jax.random.split(jax.random.fold_in(key, index))
    images, labels = _augmented(recipe, augment_key, images[batch]), labels[batch]

    def objective(params):
        model = nnx.merge(graph, params, rest, copy=True)
        _reseed(model, model_key)
        return _loss(recipe, model, images, labels)

    (loss, scores), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    right = (scores.argmax(-1) == labels).mean()
    totals += jnp.stack([loss, right])
    return (optax.apply_updates(params, updates), optimizer_state), totals


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


def _identity(lowered, params, data, recipe: Recipe, seed: int) -> dict[str, Any]:
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
        "initial weights": digest(*jax.tree.leaves(params)),
        "training set": digest(*data),
        "program": digest(lowered.as_text()),
    }


class _Store:
    """A folder with the state after the last finished epoch of one run.

    A checkpoint is a folder named by its epoch: the state as Orbax writes it, the identity of the
    run with its history, and a seal, which has the SHA-256 of each other file. It is written beside
    the old one and renamed, and only then the old one is deleted: a kill at any moment leaves one
    of the two whole. Nothing is read from files that are not those of the seal.
    """

    def __init__(self, folder: str | PathLike[str]):
        if not os.fspath(folder):
            raise ValueError("checkpoint is an empty path; name a folder")
        self.folder = Path(folder).expanduser().resolve()
        with self._naming_the_folder():
            self.folder.mkdir(parents=True, exist_ok=True)

    def check_writable(self) -> None:
        """Raise before a training that could not be kept."""
        with self._naming_the_folder():
            tempfile.TemporaryFile(dir=self.folder).close()

    def load(self, state: Any, identity: dict[str, Any]) -> tuple[Any, History]:
        """Return the stored state and history; the given state and no history if none is stored."""
        with self._naming_the_folder():
            epochs = self._epochs()
            if not epochs:
                return state, []
            path = self.folder / str(max(epochs))
            self._check_seal(path)
            run = json.loads((path / "run.json").read_text())
        self._refuse_other(run["identity"], identity)
        leaves = self._named_leaves(state)
        try:
            with _quiet_orbax(), _checkpointer() as checkpointer:
                stored = checkpointer.restore(path / "state", args=ocp.args.StandardRestore(leaves))
        except Exception as error:
            raise self._damaged(path, f"this version of Orbax cannot read it ({error})") from error
        return jax.tree.unflatten(jax.tree.structure(state), stored.values()), run["history"]

    def save(self, state: Any, history: History, identity: dict[str, Any]) -> None:
        """Store the state after an epoch."""
        epoch, written = len(history), self.folder / ".unfinished-checkpoint"
        lost = (
            f" Epoch {epoch} was not stored: the model has its weights, and another call resumes "
            "after the last epoch that was."
        )
        with self._naming_the_folder(lost), _deleted(written):
            with _quiet_orbax(), _checkpointer() as checkpointer:
                leaves = self._named_leaves(state)
                checkpointer.save(written / "state", args=ocp.args.StandardSave(leaves))
            run = {"identity": identity, "history": history}
            (written / "run.json").write_text(json.dumps(run))
            (written / _SEAL).write_text(json.dumps(_digests(written)))
            written.rename(self.folder / str(epoch))
            for other in self._epochs() - {epoch}:
                shutil.rmtree(self.folder / str(other))

    def _epochs(self) -> set[int]:
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()}

    def _check_seal(self, path: Path) -> None:
        try:
            stored = json.loads((path / _SEAL).read_bytes())
        except (FileNotFoundError, ValueError):
            stored = None
        if not isinstance(stored, dict):
            raise self._damaged(
                path, "it has no checksums, as if an earlier version had written it"
            )
        found = _digests(path)
        wrong = sorted(name for name in stored | found if stored.get(name) != found.get(name))
        if wrong:
            raise self._damaged(path, f"its file {wrong[0]} has changed")

    def _damaged(self, path: Path, how: str) -> ValueError:
        return ValueError(
            f"the checkpoint {path} cannot be used: {how}. Choose another folder, or delete "
            f"{self.folder} and train again"
        )

    @contextmanager
    def _naming_the_folder(self, consequence: str = "") -> Iterator[None]:
        """Add to an error of the disk which folder it was, and what to do."""
        try:
            yield
        except Exception as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))  # in what TensorStore raises
            number = int(code[1]) if code else getattr(error, "errno", None)
            if number is None:
                raise
            raise OSError(
                number,
                f"{os.strerror(number)}: the checkpoint folder {self.folder} cannot be read or "
                f"written.{consequence} Make room there and allow writing, or name another folder "
                "in checkpoint=...",
            ) from error

    def _refuse_other(self, stored: dict[str, Any], identity: dict[str, Any]) -> None:
        differing = [name for name, value in identity.items() if stored.get(name) != value]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{self.folder} holds the checkpoint of another run: its {name} is "
                f"{stored.get(name)} and here it is {identity[name]}; choose another folder, "
                f"or delete this one to train anew"
            )

    @staticmethod
    def _named_leaves(state: Any) -> dict[str, Array]:
        # Plain names, so that a file says nothing about the classes of Flax's and Optax's states.
        return {f"{index:03}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}


_SEAL = "sha256.json"


@contextmanager
def _deleted(folder: Path) -> Iterator[None]:
    """Delete a folder before, where a kill left it, and after, where an error did."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder but the seal."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _SEAL:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keep Orbax's notes on every save and load out of the log."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cosine_adam(peak: float) -> Optimizer:
    def optimizer(steps: int) -> optax.GradientTransformation:
        warmup = max(1, steps // 20)
        return optax.adam(
            optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1))
        )

    return optimizer


# The authors' recipes are the paper's, but for the loss of the fully connected network: with
# `squared_error` some of its classes fell silent in the first epochs. The modern ones were chosen
# on the last 10,000 training images of MNIST, for the accuracy of the ReLU network and of the
# spiking one.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="fc-authors",
            # With ten times these weights the learning rate of 1 silenced a whole layer for good.
            model=partial(FullyConnected, dropout=0.5, kernel_init=symmetric_uniform(0.01)),
            epochs=15,
            batch_size=100,
            optimizer=lambda steps: optax.sgd(1.0, momentum=0.5),
            loss=one_sided_squared_error,
        ),
        Recipe(
            name="fc-modern",
            model=partial(FullyConnected, dropout=0.2),
            epochs=10,
            batch_size=100,
            optimizer=_cosine_adam(1e-3),
            loss=one_sided_squared_error,
            augment=random_warp(shift=1.0, distortion=0.15),
        ),
        Recipe(
            name="conv-authors",
            model=partial(ConvNet, dropout=0.5, kernel_init=nnx.initializers.glorot_uniform()),
            epochs=15,
            batch_size=50,
            optimizer=lambda steps: optax.sgd(1.0),
            loss=squared_error,
        ),
        Recipe(
            name="conv-modern",
            model=partial(ConvNet, dropout=0.0),
            epochs=8,
            batch_size=100,
            optimizer=_cosine_adam(3e-3),
            loss=one_sided_squared_error,
            augment=random_warp(shift=1.0, distortion=0.15),
        ),
    )
}
