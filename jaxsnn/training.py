"""Training of the ReLU networks: recipes, a compiled loop over epochs, checkpoints.

Everything random in step i of epoch e comes from a key folded from (seed, e, i). Hence the same
seed gives the same weights, and a run resumed from a checkpoint ends in the very bits of one that
was never stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax import Array
from jax.scipy.ndimage import map_coordinates
from tqdm import tqdm

from jaxsnn.digests import digest
from jaxsnn.networks import ConvNet, FullyConnected, symmetric_uniform

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


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how a network is trained, but for the images and the seed.

    Attributes:
        name: what messages call it.
        model: builds the network that the recipe was made for, as `recipe.model(rngs=...)`. `fit`
            trains the model it is given, which may be another.
        epochs: passes over the training set.
        batch_size: images per step. An epoch's last, incomplete batch is left out.
        optimizer: Optax optimizer for a given number of steps in the whole training.
        loss: (model, images, labels) ↦ (loss, scores `[B, classes]`).
        augment: (key, images) ↦ images, applied in every step.

    Example:
        >>> import dataclasses
        >>> dataclasses.replace(RECIPES["fc-modern"], epochs=3).epochs
        3
    """

    name: str
    model: Callable[..., nnx.Module]
    epochs: int
    batch_size: int
    optimizer: Optimizer
    loss: Loss
    augment: Augmentation = lambda key, images: images


def squared_error(model: Any, images: Array, labels: Array) -> tuple[Array, Array]:
    """Return half the squared distance of the ReLU outputs to the one-hot labels, and the outputs.

    The half and the sum over classes, with a mean over the batch, are those of the paper's code:
    its learning rate of 1 belongs to this loss.

    Example:
        >>> import jax.numpy as jnp
        >>> loss, _ = squared_error(lambda x: x, jnp.array([[0.0, 0.5]]), jnp.array([1]))
        >>> float(loss)
        0.125
    """
    outputs = model(images)
    errors = outputs - jax.nn.one_hot(labels, outputs.shape[-1])
    return (errors**2).sum(-1).mean() / 2, outputs


def one_sided_squared_error(model: Any, images: Array, labels: Array) -> tuple[Array, Array]:
    """Return `squared_error`, but with a gradient for the right class where its ReLU is silent.

    The squared error of ReLU outputs has none there, and a class whose output neuron falls silent
    on all of its images is lost for good. Here the right class is measured before the ReLU.

    Example:
        >>> model = FullyConnected((4, 10), kernel_init=jax.nn.initializers.zeros, rngs=nnx.Rngs(0))
        >>> loss, _ = one_sided_squared_error(model, jnp.ones((3, 4)), jnp.array([0, 1, 2]))
        >>> float(loss)
        0.5
    """
    logits = model.logits(images)
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    errors = jnp.where(right, 1 - logits, nnx.relu(logits))
    return (errors**2).sum(-1).mean() / 2, logits


def cross_entropy(model: Any, images: Array, labels: Array) -> tuple[Array, Array]:
    """Return the mean cross-entropy of the softmax of `model.logits`, and these logits.

    Example:
        >>> import jax
        >>> model = FullyConnected((4, 10), kernel_init=jax.nn.initializers.zeros, rngs=nnx.Rngs(0))
        >>> loss, _ = cross_entropy(model, jnp.ones((3, 4)), jnp.array([0, 1, 2]))
        >>> round(float(loss), 3)  # log 10
        2.303
    """
    logits = model.logits(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits


def random_warp(
    *, shift: float = 2.0, distortion: float = 0.15, elastic: float = 0.0, cells: int = 4
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

    Example:
        >>> import jax, jax.numpy as jnp
        >>> images = jnp.ones((2, 8, 8, 1))
        >>> warp = random_warp(shift=1.0)
        >>> warp(jax.random.key(0), images).shape
        (2, 8, 8, 1)
    """

    def augment(key: Array, images: Array) -> Array:
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


def accuracy(model: Any, dataset: LabelledImages, *, batch_size: int = 1000) -> float:
    """Return the fraction of images whose label has the largest score.

    Args:
        model: a Flax NNX module, taken in its evaluation form whatever its mode, or any function
            from images `[B, ...]` to scores `[B, classes]`.
        dataset: what has `.images` and `.labels`.
        batch_size: images per call.

    Example:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> data = SimpleNamespace(images=jnp.eye(4), labels=jnp.array([0, 1, 2, 0]))
        >>> accuracy(lambda images: images, data)
        0.75
    """
    if not len(dataset.labels):
        raise ValueError("the set is empty")
    scores = partial(_scores, *nnx.split(model)) if isinstance(model, nnx.Module) else model
    right = 0
    for start in range(0, len(dataset.labels), batch_size):
        batch = slice(start, start + batch_size)
        predictions = np.argmax(scores(jnp.asarray(dataset.images[batch])), axis=-1)
        right += int((predictions == np.asarray(dataset.labels[batch])).sum())
    return right / len(dataset.labels)


def fit(
    model: nnx.Module,
    train: LabelledImages,
    *,
    recipe: Recipe,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    test: LabelledImages | None = None,
    progress: bool = True,
) -> History:
    """Train a model in place and leave it in evaluation mode.

    Args:
        model: a Flax NNX module from images to scores `[B, classes]`; its `nnx.Param` variables are
            trained.
        train: training set.
        recipe: how to train, for instance `RECIPES["fc-modern"]`.
        seed: of the order of the images, the dropout and the augmentation. The weights the model
            comes with are where training starts.
        checkpoint: folder that keeps the last finished epoch. A run that was stopped goes on from
            there when called again; another run's folder is refused.
        test: set to measure the accuracy on after every epoch.
        progress: whether to show a progress bar.

    Returns:
        One row per epoch: the mean `loss` and `accuracy` over its steps and, with a test set, the
        `test_accuracy` after it.

    Raises:
        ValueError: for a set that cannot be trained on, or the checkpoint of another run.
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
    _check(model, train, "training set", at_least=recipe.batch_size)
    if test is not None:
        _check(model, test, "test set")
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    steps = len(train.labels) // recipe.batch_size
    optimizer = recipe.optimizer(steps * recipe.epochs)
    state, history = (params, optimizer.init(params)), []
    data = jnp.asarray(train.images), jnp.asarray(train.labels)
    key = jax.random.key(seed)
    # Lowered and compiled by hand: one program for all steps, and its text is the run's identity.
    lowered = jax.jit(partial(_step, recipe, optimizer, graph, rest)).lower(
        state, jnp.zeros(2), data, _order(key, train, recipe), np.int32(0), key
    )
    store = None
    if checkpoint is not None:
        store = _Store(checkpoint, _identity(lowered, params, train, recipe, seed))
        state, history = store.load(state)
    step = lowered.compile()
    done, epochs = len(history), recipe.epochs
    with tqdm(
        initial=done, total=epochs, desc=recipe.name, unit="epoch", disable=not progress
    ) as bar:
        for epoch in range(done, epochs):
            order_key, steps_key = jax.random.split(jax.random.fold_in(key, epoch))
            order, totals = _order(order_key, train, recipe), jnp.zeros(2)
            for index in range(steps):
                state, totals = step(state, totals, data, order, np.int32(index), steps_key)
            row = _row(totals / steps, recipe, epoch)
            nnx.update(model, state[0])
            if test is not None:
                row["test_accuracy"] = accuracy(model, test)
            history.append(row)
            if store is not None:
                store.save(state, history)
            bar.set_postfix({name: f"{value:.4f}" for name, value in row.items()}, refresh=False)
            bar.update()
    nnx.update(model, state[0])
    model.eval()
    return history


def _order(key: Array, train: LabelledImages, recipe: Recipe) -> Array:
    """Return an epoch's batches as indices, `[steps, batch]`."""
    steps, rest = divmod(len(train.labels), recipe.batch_size)
    order = jax.random.permutation(key, len(train.labels))
    return order[: len(order) - rest].reshape(steps, recipe.batch_size)


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
    images, labels = recipe.augment(augment_key, images[batch]), labels[batch]

    def objective(params):
        model = nnx.merge(graph, params, rest, copy=True)
        _reseed(model, model_key)
        return recipe.loss(model, images, labels)

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


def _check(model: nnx.Module, dataset: LabelledImages, name: str, *, at_least: int = 1) -> None:
    """Raise before long work what would fail, or quietly go wrong, in the middle of it."""
    images, labels = np.asarray(dataset.images), np.asarray(dataset.labels)
    if not len(labels):
        raise ValueError(f"the {name} is empty")
    if len(labels) < at_least:
        raise ValueError(f"the {name} has {len(labels)} images, fewer than one batch of {at_least}")
    if len(images) != len(labels) or labels.ndim != 1:
        raise ValueError(
            f"the {name} has images of shape {images.shape} and labels of shape {labels.shape}; "
            f"it needs one label per image"
        )
    if not np.issubdtype(images.dtype, np.floating) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"the {name} needs floating-point images and integer labels, got {images.dtype} and "
            f"{labels.dtype}"
        )
    if not np.isfinite(low := images.min()) or not np.isfinite(high := images.max()):
        raise ValueError(f"the {name} has pixels that are not finite numbers")
    if low < 0 or high > 1:
        raise ValueError(f"the {name} has pixels in [{low}, {high}]; they belong in [0, 1]")
    try:
        scores = jax.eval_shape(partial(_scores, *nnx.split(model)), jnp.asarray(images[:1]))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the model cannot take the {name}'s images of shape {images.shape[1:]}: {error}"
        ) from error
    if labels.min() < 0 or labels.max() >= scores.shape[-1]:
        raise ValueError(
            f"the {name} has labels from {labels.min()} to {labels.max()}; the model has "
            f"{scores.shape[-1]} classes, 0 to {scores.shape[-1] - 1}"
        )


def _identity(lowered, params, train, recipe: Recipe, seed: int) -> dict[str, Any]:
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
        "training set": digest(train.images, train.labels),
        "program": digest(lowered.as_text()),
    }


class _Store:
    """A folder with the state after the last finished epoch of one run.

    Orbax writes beside the old checkpoint, renames, and only then deletes the old one: a kill at
    any moment leaves one of the two whole.
    """

    def __init__(self, folder: str | PathLike[str], identity: dict[str, Any]):
        self.folder = Path(folder).expanduser().resolve()
        self.identity = identity
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with _quiet_orbax():
            self.manager = ocp.CheckpointManager(self.folder, options=options)

    def load(self, state: Any) -> tuple[Any, History]:
        """Return the stored state and history; the given state and no history if none is stored."""
        epoch = self.manager.latest_step()
        if epoch is None:
            return state, []
        with _quiet_orbax():
            run = self.manager.restore(epoch, args=ocp.args.Composite(run=ocp.args.JsonRestore()))
            self._refuse_other(run["run"]["identity"])
            leaves = self._named_leaves(state)
            stored = self.manager.restore(
                epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(leaves))
            )
        leaves = [stored["state"][name] for name in leaves]
        return jax.tree.unflatten(jax.tree.structure(state), leaves), run["run"]["history"]

    def save(self, state: Any, history: History) -> None:
        """Store the state after an epoch."""
        with _quiet_orbax():
            self.manager.save(
                len(history),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(self._named_leaves(state)),
                    run=ocp.args.JsonSave({"identity": self.identity, "history": history}),
                ),
            )

    def _refuse_other(self, stored: dict[str, Any]) -> None:
        differing = [name for name, value in self.identity.items() if stored.get(name) != value]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{self.folder} holds the checkpoint of another run: its {name} is "
                f"{stored.get(name)} and here it is {self.identity[name]}; choose another folder, "
                f"or delete this one to train anew"
            )

    @staticmethod
    def _named_leaves(state: Any) -> dict[str, Array]:
        # Plain names, so that a file says nothing about the classes of Flax's and Optax's states.
        return {f"{index:03}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}


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
