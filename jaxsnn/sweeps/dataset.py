"""The counts of a sweep, and the labelled dataset that is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsnn import metrics
from jaxsnn.engines.base import Counts, Trajectory
from jaxsnn.network import Network
from jaxsnn.sweeps.grid import SIMULATED, Grid
from jaxsnn.sweeps.points import Points, SweepJob

if TYPE_CHECKING:
    import xarray as xr

_AXES = len(SIMULATED)
_DT = 3  # the place of dt among them
_MEANINGS = {
    "scales": ("scale factors", ""),
    "threshold": ("threshold", "λ"),
    "max_rate": ("highest input rate", "Hz"),
    "dt": ("time step", "s"),
    "refractory_period": ("refractory period", "s"),
    "initial_potential": ("initial potential", "θ"),
    "reset": ("reset", ""),
    "seed": ("seed", ""),
    "time": ("simulated time", "s"),
    "layer": ("layer", ""),
    "accuracy": ("accuracy", "1"),
    "undecided": ("images without a prediction", "1"),
    "spikes": ("spikes per image", "1"),
    "input_spikes": ("input spikes per image", "1"),
    "synaptic_operations": ("synaptic operations per image", "1"),
    "first_spike_accuracy": ("accuracy of the first output spike", "1"),
    "first_spike_latency": ("median time of the first output spike", "s"),
    "relu_accuracy": ("accuracy of the ReLU network", "1"),
    "scale_factor": ("scale factor λ", "1"),
}


def to_dataset(job: SweepJob, points: Points, counts: Counts, relu_accuracy: float) -> xr.Dataset:
    """The dataset that `sweep` returns.

    Args:
        job: the network, the grid and the images.
        points: the points, for their scale factors.
        counts: of all points [reset, dt, seed, max_rate, points, T, ...].
        relu_accuracy: accuracy of the ReLU network.

    Returns:
        The dataset.
    """
    import xarray as xr

    grid, images, scales = job.grid, len(job.images), points.scale_factors
    counts = _in_order(counts, grid)
    same, _ = fan_outs(points.network.network)
    operations = counts.spikes[..., :-1] @ same + counts.operations @ [1 << 16, 1]
    undecided = _until(counts.undecided - images, grid) + images  # all are, before the first step
    spikes = _until(counts.spikes.cumsum(_AXES), grid) / images
    dts = np.expand_dims(grid.values("dt"), [axis for axis in range(_AXES) if axis != _DT])
    found = {
        "accuracy": _until(counts.correct, grid) / images,
        "undecided": undecided / images,
        "spikes": spikes[..., 1:],
        "input_spikes": spikes[..., 0],
        "synaptic_operations": _until(operations.cumsum(_AXES), grid) / images,
        "first_spike_accuracy": counts.first_correct.sum(_AXES) / images,
        "first_spike_latency": np.round(_median_step(counts.first, images) * dts, 12),
    }
    axes = list(grid.axes)
    dims = [*axes, "time", "layer"]
    data = xr.Dataset(
        {name: (dims[: values.ndim], values) for name, values in found.items()},
        coords=_coordinates(job.network, grid),
    )
    data["relu_accuracy"] = relu_accuracy
    if all(np.ndim(scale) == 0 for row in scales for scale in row):
        data["scale_factor"] = ("scales", "layer"), np.array(scales, float)
    for name, (text, units) in _MEANINGS.items():
        if name in data.variables:
            data[name].attrs.update(long_name=text, units=units)
    return data.isel({axis.name: 0 for axis in grid.axes.values() if axis.single})


def _in_order(counts: Counts, grid: Grid) -> Counts:
    """Counts [grid, T, ...] with the axes of the grid in its own order."""
    sizes = [len(grid.values(name)) for name in SIMULATED]
    places = [list(grid.axes).index(name) for name in SIMULATED]
    apart = (array.reshape(*sizes, *array.shape[5:]) for array in counts)
    return Counts(*(np.moveaxis(array, range(_AXES), places) for array in apart))


def _until(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Values [grid, T, ...] after the last whole step of each time: [grid, times, ...]."""
    parts = []
    for index, dt in enumerate(grid.values("dt")):
        steps = np.floor(grid.times / dt * (1 + 2e-6)).astype(int)
        part = values.take([index], _DT).take(np.maximum(steps - 1, 0), _AXES)
        part[(slice(None),) * _AXES + (steps == 0,)] = 0
        parts.append(part)
    return np.concatenate(parts, _DT)


def _median_step(first: np.ndarray, images: int) -> np.ndarray:
    """Median over images of the step of the first output spike, nan where it is a silent image.

    The counts [..., T] say how many images there are for each step.
    """
    so_far = first.cumsum(-1)
    middle = [(so_far <= rank).sum(-1) + 1.0 for rank in ((images - 1) // 2, images // 2)]
    silent = middle[1] > first.shape[-1]
    return np.where(silent, np.nan, (middle[0] + middle[1]) / 2)


def _coordinates(network: Network, grid: Grid) -> dict[str, Any]:
    numbers = np.arange(1, len(network.layers) + 1)
    coordinates: dict[str, Any] = {name: axis.labels for name, axis in grid.axes.items()}
    coordinates |= {"time": grid.times, "layer": numbers}
    coordinates["operation"] = "layer", [layer.kind for layer in network.layers]
    rows = grid.values("threshold")
    if any(np.ndim(row) for row in rows):
        full = [np.broadcast_to(row, len(numbers)) for row in rows]
        coordinates["multipliers"] = ("threshold", "layer"), np.array(full, float)
    return coordinates


def no_counts(job: SweepJob) -> Counts:
    """Zeros for all points [reset, dt, seed, max_rate, points, T, ...]."""
    shape = *job.shape, job.most_steps
    return Counts(
        *(np.zeros((*shape, *tail), np.int64) for tail in Counts.shapes(len(job.network.layers)))
    )


def fan_outs(network: Network) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """The fan-out that all neurons of a source have, else 0; and else the array, of the layer."""
    found = list(map(np.asarray, metrics.fan_out(network)))
    same = [bool(np.all(array == array.ravel()[0])) for array in found]
    numbers = [int(array.ravel()[0]) if one else 0 for array, one in zip(found, same)]
    return np.array(numbers), [None if one else array for array, one in zip(found, same)]


def counts_of(trajectory: Trajectory, labels: np.ndarray, same: np.ndarray) -> Counts:
    """The counts of each step, from what an engine returns of each sample.

    Args:
        trajectory: with spikes and operations of each step.
        labels: the true classes [B].
        same: the fan-outs that all neurons of a source have, from `fan_outs`.
    """
    predictions, state = np.asarray(trajectory.predictions), trajectory.state
    spikes, steps = np.asarray(trajectory.spikes), len(predictions)
    first_class, first_step = map(np.asarray, (state.first_spike_class, state.first_spike_step))
    fired = first_class >= 0
    correct = fired & (first_class == labels)
    # Operations of sources whose neurons have all the same fan-out follow from the spikes.
    others = (np.asarray(trajectory.operations) - spikes[..., :-1] @ same).sum(1)
    return Counts(
        correct=((predictions == labels) & (predictions >= 0)).sum(1),
        undecided=(predictions < 0).sum(1),
        first=np.bincount(first_step[fired] - 1, minlength=steps),
        first_correct=np.bincount(first_step[correct] - 1, minlength=steps),
        spikes=spikes.sum(1, dtype=np.int64),
        operations=np.stack([others >> 16, others & 0xFFFF], -1),
    )
