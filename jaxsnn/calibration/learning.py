"""Thresholds and more, learned for a given number of steps from a few images.

Gradients go through the spikes (`jaxsnn.neurons.boxcar`), and held-out images decide what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxsnn import metrics
from jaxsnn.calibration.outputs import DT, check_counts, parameter_axes, relu_outputs
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.scaling import Per
from jaxsnn.network import Connection, Layer, Network
from jaxsnn.simulation import simulate
from jaxsnn.support.digests import digest
from jaxsnn.support.progress import progress_bar, skip
from jaxsnn.support.random import check_seed
from jaxsnn.support.typed import Count, Images, Numbers, Real, typed
from jaxsnn.support.warn import warn

Parameter = Literal["thresholds", "initial_potentials", "amplitudes", "weights", "biases"]

# For each parameter and each layer how far it is moved; None where the layer has no such parameter.
Moves = dict[str, list[Any]]

_LOGITS = 4.0  # standard deviation of scores in a cross-entropy, as of trained logits
_RATE = 0.01  # the largest learning rate of the default optimizer
_FINE = 0.1  # what a move of 1 changes: of weights, in their root mean square; of biases, in units
_SMALL = 1e-12


@typed
def calibrate(
    snn: SpikingNetwork,
    images: Images,
    labels: Numbers | None = None,
    *,
    steps: Count,
    parameters: Sequence[Parameter] = ("thresholds", "initial_potentials"),
    per: Per = "channel",
    optimizer: optax.GradientTransformation | None = None,
    epochs: Count = 10,
    batch_size: Count = 50,
    held_out: Real = 0.2,
    seed: Count = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> SpikingNetwork:
    """Learn thresholds and initial potentials with which few steps are enough.

    Without labels, what is lowered is the squared error of the scores after the last step, as
    averages over the steps, against the outputs of the ReLU network, in units of their variance;
    with labels it is their cross-entropy. On images that the ReLU network was trained with, labels
    have little to teach, since it is right on nearly all of them: leave them out there.

    After every epoch the loss of the held-out images decides whether the network is the best so
    far; if none is better than the one given, that one is returned, with a warning.

    Source: the surrogate gradients of Wu et al. 2018, the parameters of a conversion after Li et
    al. 2021, "A free lunch from ANN: towards efficient, accurate spiking neural networks
    calibration".

    Args:
        snn: the spiking network, with the encoding and the reset that it is to run with.
        images: images `[N, ...]` to learn from, such as a thousand of the training set.
        labels: their classes `[N]`; by default the outputs of the ReLU network are the targets.
        steps: how many steps the network is to run, each with a full rate: a duration of `steps`
            times dt, at a max_rate of 1/dt.
        parameters: what is learned: "thresholds", "initial_potentials" and "amplitudes", which
            keep the weights; "weights" and "biases" are fine-tuning.
        per: "channel" or "layer": what shares a threshold, an initial potential, an amplitude or a
            bias.
        optimizer: of Optax, for moves in units of about the size of the parameters; by default
            Adam with a rate that falls from 0.01 to 0 along a cosine.
        epochs: how often the images are seen.
        batch_size: images of a step of the optimizer.
        held_out: the share of the images that is kept to decide what is best.
        seed: of the order of the images and of the random draws, from 0 to 2³² - 1.
        checkpoint: folder that keeps the last finished epoch; the same call then resumes there.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        The network with the parameters that were best.

    Raises:
        ValueError: a bad value, named with its remedy, or a checkpoint of another calibration.
        FloatingPointError: the loss is no longer a finite number.

    Warns:
        UserWarning: nothing was found that is better on the held-out images.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> model = lambda x: jax.nn.relu(x @ jnp.eye(2)) @ jnp.array([[1.0, -1.0], [-1.0, 1.0]])
        >>> images = jax.random.uniform(jax.random.key(0), (100, 2))
        >>> snn = jaxsnn.convert(model, images)
        >>> better = jaxsnn.calibrate(snn, images, steps=2, epochs=3, parameters=["amplitudes"])
        >>> bool(better.amplitudes[1][0].mean() < snn.amplitudes[1][0].mean())
        True
    """
    _check(snn, parameters, steps, epochs, batch_size, held_out, seed)
    data, rest, spread = _split(snn.network, images, labels, held_out, batch_size, seed)
    task = _Task(steps, labels is not None, spread)
    moves = no_moves(snn, parameters, per)
    batches = len(data.images) // batch_size
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, epochs * batches))
    learn = jax.jit(partial(_learn, task, optimizer))
    judge = jax.jit(task.loss)
    state = (moves, optimizer.init(moves), moves, judge(snn, moves, rest, np.uint32(seed)))
    store, identity, history = None, {}, []
    if checkpoint is not None:
        given = snn, state[:2], data, np.zeros(batch_size, np.int32), np.uint32(seed)
        numbers = map(np.asarray, (*jax.tree.leaves(given), epochs))
        identity = {"calibration": digest(learn.lower(*given).as_text(), *numbers)}
        store = _checkpoints(checkpoint)
        state, history = store.load(state, identity)
    with progress_bar(progress, total=epochs * batches, desc="calibrating") as bar:
        skip(bar, len(history) * batches)
        for epoch in range(len(history), epochs):
            moves, memory, best, least = state
            order = np.random.default_rng((seed, epoch)).permutation(len(data.images))
            for number in range(batches):
                chosen = order[number * batch_size : (number + 1) * batch_size].astype(np.int32)
                draw = np.uint32((seed + epoch * batches + number + 1) % (1 << 32))
                moves, memory = learn(snn, (moves, memory), data, chosen, draw)
                bar.update()
            loss = judge(snn, moves, rest, np.uint32(seed))
            _check_loss(float(loss), epoch)
            best, least = (moves, loss) if loss < least else (best, least)
            state = (moves, memory, best, least)
            history.append({"held_out_loss": float(loss)})
            if store is not None:
                store.save(state, history, identity)
    if all(row["held_out_loss"] > float(state[3]) for row in history):
        warn(
            f"{epochs} epochs of calibration found nothing better on the held-out images; the "
            "network is the one given. Give more images, another optimizer or other parameters."
        )
        return snn
    return jax.tree.map(jnp.asarray, moved(snn, state[2]))


class _Data(NamedTuple):
    """Images `[N, ...]` and their classes `[N]`, or outputs of the ReLU network `[N, classes]`."""

    images: Array
    targets: Array


class _Task(NamedTuple):
    """What is to be learned.

    Attributes:
        steps: how many steps the network runs.
        labelled: whether targets are classes, and no outputs.
        spread: the standard deviation of the ReLU network's outputs.
    """

    steps: int
    labelled: bool
    spread: float

    def loss(self, snn: SpikingNetwork, moves: Moves, data: _Data, draw: Array) -> Array:
        """The mean loss of some images, with moved parameters."""
        run = simulate(
            moved(snn, moves),
            data.images,
            key=draw,
            duration=self.steps * DT,
            dt=DT,
            max_rate=1 / DT,
            engine="scan",
            progress=False,
        )
        assert run.scores is not None
        outputs = run.scores[-1] / self.steps
        if self.labelled:
            logits = outputs * (_LOGITS / self.spread)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.targets)
        else:
            losses = ((outputs - data.targets) / self.spread) ** 2
        return losses.mean()


def _learn(
    task: _Task,
    optimizer: optax.GradientTransformation,
    snn: SpikingNetwork,
    state: tuple[Moves, Any],
    data: _Data,
    chosen: Array,
    draw: Array,
) -> tuple[Moves, Any]:
    """One step of the optimizer."""
    moves, memory = state
    batch = _Data(*(values[chosen] for values in data))
    gradient = jax.grad(task.loss, argnums=1)(snn, moves, batch, draw)
    updates, memory = optimizer.update(gradient, memory, moves)
    return cast(Moves, optax.apply_updates(moves, updates)), memory


# -- Parameters and how they are moved -------------------------------------------------------------


def no_moves(snn: SpikingNetwork, parameters: Sequence[Parameter], per: Per) -> Moves:
    """Moves of 0 of the parameters that are to be learned.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from jaxsnn.calibration import no_moves
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 3)))
        >>> snn = jaxsnn.balance_thresholds(network, 4.0)
        >>> no_moves(snn, ["thresholds"], "layer")
        {'thresholds': [Array(0., dtype=float32)]}
    """
    layers, dtype = snn.network.layers, snn.network.dtype
    axes = parameter_axes(snn.network, per)

    def zeros(index: int) -> Array:
        axis, shape = axes[index], snn.network.shapes[index]
        sizes = [size if place == axis else 1 for place, size in enumerate(shape)]
        return jnp.zeros((), dtype) if axis is None else jnp.zeros(sizes, dtype)

    neurons = [layer.spiking and not layer.pools_maxima for layer in layers]
    sends = [layer.spiking for layer in layers[:-1]] + [False]
    biased = [layer.weighted and not layer.pools_maxima for layer in layers]
    chosen = {
        "thresholds": neurons,
        "initial_potentials": neurons,
        "amplitudes": sends,
        "biases": biased,
    }
    moves: Moves = {
        name: [zeros(index) if there else None for index, there in enumerate(chosen[name])]
        for name in parameters
        if name in chosen
    }
    if "weights" in parameters:
        moves["weights"] = [jax.tree.map(jnp.zeros_like, layer.connections) for layer in layers]
    return moves


def moved(snn: SpikingNetwork, moves: Mapping[str, list[Any]]) -> SpikingNetwork:
    """The network with its parameters moved.

    Thresholds and amplitudes are multiplied by exp(move), so that they stay positive; initial
    potentials move by a fraction of the threshold; weights by a tenth of their root mean square,
    and biases by a tenth of the threshold, for a move of 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from jaxsnn.calibration import moved
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 3)))
        >>> snn = jaxsnn.balance_thresholds(network, 4.0)
        >>> float(moved(snn, {"thresholds": [jnp.log(0.5)]}).thresholds[0])
        2.0
    """
    layers = snn.network.layers
    nothing = [None] * len(layers)
    by: dict[str, list[Any]] = {name: moves.get(name) or nothing for name in _names()}
    thresholds = list(map(_times_exp, snn.thresholds, by["thresholds"]))
    starts = [
        _started(layer, *of_layer)
        for layer, *of_layer in zip(
            layers, snn.start(), snn.thresholds, thresholds, by["initial_potentials"]
        )
    ]
    amplitudes = [
        [
            weight if weight is None else _times_exp(weight, by["amplitudes"][part.source])
            for part, weight in zip(layer.all_connections, row)
        ]
        for layer, row in zip(layers, snn.amplitudes)
    ]
    new = map(_fine_tuned, layers, snn.thresholds, by["weights"], by["biases"])
    network = Network(tuple(new), snn.network.input_shape)
    return replace(
        snn,
        network=network,
        thresholds=thresholds,
        amplitudes=amplitudes,
        initial_potentials=starts,
    )


def _names() -> tuple[str, ...]:
    return Parameter.__args__  # type: ignore[attr-defined]


def _times_exp(value: Any, move: Any) -> Any:
    return value if move is None else value * jnp.exp(move)


def _started(layer: Layer, start: Any, before: Any, threshold: Any, move: Any) -> Any:
    """The initial potential: the same fraction of the new threshold, and a move beside it."""
    if not layer.spiking:
        return start
    return (jnp.asarray(start) / before + (0.0 if move is None else move)) * threshold


def _fine_tuned(layer: Layer, threshold: Any, weights: Any, bias: Any) -> Layer:
    """The layer with other weights and another bias."""
    if weights is not None:
        found = jax.tree.map(_by_size, layer.connections, weights)
        layer = replace(layer, connections=cast(tuple[Connection, ...], found))
    if bias is None:
        return layer
    unit = jnp.asarray(threshold) if layer.spiking else 1.0
    return layer.with_bias((0.0 if layer.bias is None else layer.bias) + _FINE * bias * unit)


def _by_size(weights: Any, move: Any) -> Array:
    size = jnp.sqrt(jnp.mean(jnp.square(weights)) + _SMALL)
    return weights + (_FINE * size * move).astype(weights.dtype)


# -- Checks, and images ----------------------------------------------------------------------------


def _check(
    snn: SpikingNetwork,
    parameters: Sequence[str],
    steps: int,
    epochs: int,
    batch_size: int,
    held_out: float,
    seed: int,
) -> None:
    snn.check()
    check_counts(steps=steps, epochs=epochs, batch_size=batch_size)
    if not parameters:
        raise ValueError(f"parameters is empty; choose among {', '.join(_names())}.")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out:g}; it must be a share of the images, in (0, 1).")
    check_seed(seed, "seed")


def _split(
    network: Network,
    images: Images,
    labels: Numbers | None,
    held_out: float,
    batch_size: int,
    seed: int,
) -> tuple[_Data, _Data, float]:
    """Images to learn from, images to judge by, and the spread of the ReLU network's outputs."""
    pixels = network.images_on_host(images)
    count = max(1, round(held_out * len(pixels)))
    if len(pixels) - count < batch_size:
        raise ValueError(
            f"{len(pixels)} images, of which {count} are held out: there must be {batch_size} for "
            "one batch beside them; give more images, or a smaller batch_size."
        )
    targets = outputs = relu_outputs(network, pixels)
    if labels is not None:
        targets = np.asarray(metrics.checked_labels(labels, classes=network.shapes[-1][-1]))
        if targets.shape != pixels.shape[:1]:
            raise ValueError(
                f"labels have shape {targets.shape}; there must be one for each of {len(pixels)} "
                "images."
            )
    order = np.random.default_rng(seed).permutation(len(pixels))
    learned, kept = (
        _Data(jnp.asarray(pixels[chosen]), jnp.asarray(targets[chosen]))
        for chosen in (order[count:], order[:count])
    )
    return learned, kept, float(np.std(outputs)) or 1.0


def _check_loss(loss: float, epoch: int) -> None:
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} after epoch {epoch + 1}; try an optimizer with a smaller rate, "
            "such as optax.adam(0.002)."
        )


def _checkpoints(folder: str | PathLike[str]) -> Any:
    from jaxsnn.support.checkpoints import Checkpoints

    return Checkpoints(folder)
