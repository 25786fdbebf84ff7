"""What a sweep has to do: network, images and points, checked before anything is compiled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from inspect import Parameter, signature
from itertools import product
from math import prod
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxsnn import encoding, metrics, neurons, readout
from jaxsnn.conversion.balancing import SpikingNetwork, at_fraction, balance_thresholds
from jaxsnn.conversion.executable import Executable
from jaxsnn.conversion.fixed_point import FixedPoint, check_exact, check_steps, integer_layers
from jaxsnn.conversion.fixed_point import with_thresholds as in_integers
from jaxsnn.engines.base import Behaviour, Run
from jaxsnn.engines.checks import check_behaviour, checked_images, in_steps
from jaxsnn.network import Network, per_layer
from jaxsnn.support.digests import digest, fingerprint
from jaxsnn.support.random import sample_keys
from jaxsnn.support.typed import Numbers, described
from jaxsnn.sweeps.grid import SIMULATED, Axis, Grid


class SweepJob(NamedTuple):
    """All that decides the result of a sweep, checked."""

    network: Network
    images: np.ndarray
    labels: np.ndarray
    grid: Grid
    encode: encoding.Encoding
    read: readout.Readout
    arithmetic: FixedPoint | None

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """The number of resets, dts, seeds, rates, and points of one of each."""
        resets, dts, seeds, rates, *points = (len(self.grid.values(name)) for name in SIMULATED)
        return resets, dts, seeds, rates, prod(points)

    @property
    def most_steps(self) -> int:
        """The number of steps of the smallest dt."""
        return max(map(self.grid.steps, self.grid.values("dt")))

    @property
    def counts_refractory_steps(self) -> bool:
        """Whether any point has a refractory period that is longer than a step."""
        values = self.grid.values("refractory_period"), self.grid.values("dt")
        return any(in_steps(period, dt) > 1 for period, dt in product(*values))

    def behaviour(self, reset: int) -> Behaviour:
        """The functions of the simulation, with one of the resets."""
        resets = self.grid.values("reset")
        return Behaviour(self.encode, resets[reset], neurons.heaviside, self.read)

    def keys(self) -> np.ndarray:
        """The words of the key of each sample for each seed [S, N, 2]."""
        numbers = np.arange(len(self.images))
        return np.stack([sample_keys(seed, numbers) for seed in self.grid.values("seed")])


class Points(NamedTuple):
    """The points of one seed, rate and dt, which differ in all other numbers of the grid.

    Attributes:
        network: the network of the first point; all points have its weights.
        settings: the fields of the network in which points differ, with leaves [points, ...].
        refractory_periods: in seconds [points].
        scale_factors: for each scale rule λ of each layer.
    """

    network: Executable
    settings: dict[str, Any]
    refractory_periods: np.ndarray
    scale_factors: list[list[np.ndarray]]

    def chosen(self, points: Any) -> dict[str, Any]:
        """The settings of some of the points, or of one."""
        return jax.tree.map(lambda values: values[points], self.settings)


def run_of_point(
    job: SweepJob,
    points: Points,
    place: tuple[int, int, int, int, int],
    samples: slice,
    keys: np.ndarray,
) -> Run:
    """The run of one point on some images, for an engine that has no `simulate_points`.

    Args:
        job: the sweep.
        points: its points.
        place: the reset, dt, seed, rate and point, as places on the axes of the counts.
        samples: which images.
        keys: of all seeds and images.
    """
    reset, dt, seed, rate, point = place
    step = job.grid.values("dt")[dt]
    behaviour = job.behaviour(reset)
    numbers = np.arange(samples.start, samples.stop, dtype=np.int32)
    return Run(
        network=replace(cast(Any, points.network), **points.chosen(point), reset=behaviour.reset),
        images=job.images[samples],  # type: ignore[arg-type]
        keys=keys[seed][samples],  # type: ignore[arg-type]
        samples=numbers,  # type: ignore[arg-type]
        max_rate=job.grid.values("max_rate")[rate],
        dt=step,
        steps=job.grid.steps(step),
        refractory_steps=in_steps(float(points.refractory_periods[point]), step),
        state=None,
        behaviour=behaviour,
        per_step=True,
    )


def checked_job(
    network: Network,
    images: ArrayLike,
    labels: Numbers,
    grid: Grid,
    calibration: ArrayLike | None,
    encode: encoding.Encoding,
    read: readout.Readout | None,
    arithmetic: FixedPoint | None,
) -> SweepJob:
    """The job of these arguments of `sweep`, or the errors that it names."""
    read = read or readout.default(network.layers[-1].spiking)
    # 1, or the ceiling of an activation that is lower.
    balance_thresholds(network, [min(1.0, layer.ceiling) for layer in network.layers]).check()
    pixels, classes = _checked_images(network, images, labels, encode)
    for row in grid.values("threshold"):
        per_layer(network, np.asarray(row).tolist(), "threshold")
    scales = grid.axes["scales"]
    for label, value in zip(scales.labels, scales.values, strict=True):
        if not callable(value):
            balance_thresholds(network, value)
        elif calibration is None and _looks_at_images(value):
            raise ValueError(
                f"the scale rule {label!r} looks at activations: give sweep images for it, such as "
                "calibration=train.images."
            )
    if calibration is not None:
        checked_images(network, calibration, encode)
    for reset in grid.values("reset"):
        check_behaviour(Behaviour(encode, reset, neurons.heaviside, read), None, network)
    job = SweepJob(network, pixels, classes, grid, encode, read, arithmetic)
    if arithmetic is not None:
        check_steps(job.most_steps, arithmetic.steps)
        for reset in grid.values("reset"):
            check_exact(reset, encode, network.input_shape)
    return job


def make_points(job: SweepJob, calibration: ArrayLike | None) -> Points:
    """Thresholds m·λ and amplitudes λ of every combination."""
    network, grid = job.network, job.grid
    factors = [
        per_layer(network, _scale_factors(network, value, calibration), "scale factors")
        for value in grid.values("scales")
    ]
    balanced = [balance_thresholds(network, scales) for scales in factors]
    rows = [np.asarray(row).tolist() for row in grid.values("threshold")]
    multipliers = [per_layer(network, row, "threshold") for row in rows]
    periods, starts = map(grid.values, ("refractory_period", "initial_potential"))
    points = list(product(balanced, multipliers, periods, starts))
    networks: list[Any] = [_started(snn, row, start) for snn, row, _, start in points]
    if job.arithmetic is not None:
        networks = _in_integers(job, networks)
        networks[0].check_run(job.most_steps, job.encode, images=job.images)
    settings = [snn.settings for snn in networks]
    if any(grid.values("initial_potential")):
        for of_point, snn in zip(settings, networks, strict=True):
            of_point["initial_potentials"] = snn.start()
    return Points(
        network=networks[0],
        settings=_stacked(settings),
        refractory_periods=np.array([period for _, _, period, _ in points]),
        scale_factors=[list(map(np.asarray, scales)) for scales in factors],
    )


def _started(snn: SpikingNetwork, multipliers: list[Any], fraction: float) -> SpikingNetwork:
    """The network with thresholds m·θ, and potentials at the start that are a fraction of them."""
    # By NumPy: grids of many points would be many small programs on an accelerator.
    rows = zip(multipliers, map(np.asarray, snn.thresholds), strict=True)
    thresholds: list[Any] = [m * theta for m, theta in rows]
    starts = at_fraction(snn.network, thresholds, fraction)
    return replace(snn, thresholds=thresholds, initial_potentials=starts)


def _in_integers(job: SweepJob, networks: list[SpikingNetwork]) -> list[Any]:
    """The points in fixed point: one set of integer weights, and thresholds for each."""
    assert job.arithmetic is not None
    layers = integer_layers(networks[0], job.arithmetic)
    for index, rows in enumerate(zip(*(snn.amplitudes for snn in networks), strict=True)):
        first, *others = ([np.asarray(1.0 if a is None else a) for a in row] for row in rows)
        if layers.folded[index] and not all(
            all(map(np.array_equal, first, values)) for values in others
        ):
            raise ValueError(
                f"{job.network.name(index)}: what the spikes that it receives weigh is part of its "
                "integer weights, since it has a bias, several connections or scale factors of "
                "channels, and the points of a sweep share their weights. Sweep these scale "
                "factors one at a time, or in float32."
            )
    return [in_integers(layers, snn) for snn in networks]


def identity(job: SweepJob, points: Points) -> dict[str, str]:
    """Names and digests of all that decides the result."""
    grid, network = job.grid, job.network
    zeros = jnp.zeros((1, *network.shapes[-1]))
    pixels = jnp.zeros(network.input_shape, network.dtype)
    resets = [fingerprint(reset, zeros, zeros, zeros) for reset in grid.values("reset")]
    numbers = ["threshold", "max_rate", "dt", "refractory_period", "seed"]
    if grid.values("initial_potential") != [0.0]:  # files of earlier versions know no others
        numbers.append("initial_potential")
    return {
        "network": digest(_structure(network), *jax.tree.leaves(network)),
        "images": digest(job.images),
        "labels": digest(job.labels),
        "scales": digest(_labels(grid.axes["scales"]), *jax.tree.leaves(points.scale_factors)),
        **{name: _as_text(grid.axes[name]) for name in numbers},
        "duration": str(grid.times.tolist()),
        "reset": digest(_labels(grid.axes["reset"]), *resets),
        "arithmetic": "float" if job.arithmetic is None else str(job.arithmetic),
        "encoding": fingerprint(job.encode, jax.random.key(0), pixels),
        "readout": fingerprint(job.read, _output(network)),
    }


def _structure(network: Network) -> str:
    """The operations and how they are connected, the same in every process.

    The places of the layers in the model are left out, which change nothing.
    """
    layers = tuple(replace(layer, name="") for layer in network.layers)
    structure = jax.tree.structure(Network(layers, network.input_shape))
    return re.sub(r" at 0x[0-9a-f]+", "", str(structure))  # addresses of this process


def _output(network: Network) -> readout.Output:
    """What a readout sees of one sample."""
    zeros = jnp.zeros((1, *network.shapes[-1]), network.dtype)
    one, first = jnp.ones((), network.dtype), jnp.zeros(1, jnp.int32)
    return readout.Output(zeros, zeros, one, first, network.layers[-1].spiking)


def _labels(axis: Axis) -> str:
    return json.dumps([axis.single, axis.labels])


def _as_text(axis: Axis) -> str:
    return json.dumps([_labels(axis), [np.asarray(value).tolist() for value in axis.values]])


# -- Parts -----------------------------------------------------------------------------------------


def _checked_images(
    network: Network, images: ArrayLike, labels: Numbers, encode: encoding.Encoding
) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.asarray(checked_images(network, images, encode))
    classes = np.asarray(metrics.checked_labels(labels, classes=network.shapes[-1][-1]))
    if classes.shape != (len(pixels),):
        raise ValueError(
            f"labels of shape {classes.shape} for {len(pixels)} images; there must be one integer "
            "for each image."
        )
    return pixels, classes.astype(np.int32)


def _scale_factors(network: Network, value: Any, calibration: ArrayLike | None) -> Any:
    """Scale factors as they were given, or by a rule of the network or of images too."""
    if not callable(value):
        return value
    return value(network, calibration) if _looks_at_images(value) else value(network)


def _looks_at_images(rule: Callable[..., Any]) -> bool:
    """Whether a scale rule needs images beside the network."""
    variable = Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD
    parameters = signature(rule).parameters.values()
    needed = [p for p in parameters if p.default is Parameter.empty and p.kind not in variable]
    if isinstance(rule, type) or not parameters or len(needed) > 2:
        raise ValueError(
            f"scales={described(rule)}; a scale rule takes the network, or the network and "
            "calibration images, such as jaxsnn.data_based_scales."
        )
    return len(needed) > 1


def _stacked(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings of all points with leaves [points, ...], as they broadcast to each other."""

    def stack(*values: Any) -> np.ndarray:
        return np.stack(np.broadcast_arrays(*map(np.asarray, values)))

    return jax.tree.map(stack, *points)
