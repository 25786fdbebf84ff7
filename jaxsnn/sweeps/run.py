"""Sweeps over a grid of settings: in pieces, resumable, with labelled results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxsnn import encoding, readout
from jaxsnn.conversion.executable import Executable
from jaxsnn.conversion.fixed_point import FixedPoint
from jaxsnn.engines import Engine, EngineChoice, choose
from jaxsnn.engines.base import Counts, Run, no_progress
from jaxsnn.engines.checks import in_steps
from jaxsnn.engines.scan.lowering import fastest_formats
from jaxsnn.engines.scan.points import Labelled
from jaxsnn.network import Network
from jaxsnn.support.progress import progress_bar, skip
from jaxsnn.support.typed import Count, Images, Numbers, typed
from jaxsnn.sweeps.dataset import counts_of, fan_outs, no_counts, to_dataset
from jaxsnn.sweeps.grid import Grid
from jaxsnn.sweeps.growth import finished_part, grown
from jaxsnn.sweeps.plan import (
    Block,
    Plan,
    check_memory,
    padded_steps,
    planned,
    planned_one_by_one,
    rounded_up,
)
from jaxsnn.sweeps.points import (
    Points,
    SweepJob,
    checked_job,
    identity,
    make_points,
    run_of_point,
)
from jaxsnn.sweeps.store import Store, check_path, from_first

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger("jaxsnn")
_RELU_BATCH = 1000


@typed
def sweep(
    network: Network,
    images: Images,
    labels: Numbers,
    grid: Grid,
    *,
    calibration: Images | None = None,
    encode: encoding.Encoding = encoding.poisson,
    read: readout.Readout | None = None,
    arithmetic: FixedPoint | None = None,
    engine: EngineChoice = "auto",
    path: str | PathLike[str] | None = None,
    memory: Count | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Simulate every point of a grid on the same images, and label what comes out.

    A point gives what `simulate` gives for `balance_thresholds(network, λ)` with its thresholds
    multiplied by m, and with the seed as its key: the same input spikes, and the same spikes of all
    neurons but for the rounding of float32 sums. Each reset is a program of its own; all other
    settings share one.

    Args:
        network: the ReLU network.
        images: images `[N, ...]` with pixels in [0, 1]; for `constant` any finite numbers.
        labels: their classes `[N]`.
        grid: the settings to combine.
        calibration: images for the grid's scale rules that look at activations, usually the
            training set.
        encode: how pixels drive the first layer.
        read: how a class is read from the output layer; by default as in `simulate`.
        arithmetic: `FixedPoint(bits)` rounds weights and thresholds to integers: counts are then
            the same bit for bit whatever computes them. By default floating point.
        engine: "scan", "events" or "auto", as in `jaxsnn.simulate`; the event-driven engine
            simulates the points one after the other on the cores of a CPU.
        path: a netCDF file for the result, written when all is done. Until then finished pieces
            are kept in a folder beside it, `<path>.partial`. Called again, the sweep is resumed,
            and when it is done it is read from the file. Where the grid then has further values on
            its axes, only what is new is simulated, and the file has both. (A further `dt` needs
            durations given as a sequence, so that the times stay the same.) Of several sweeps to
            one path at the same time all but the first raise ValueError.
        memory: bytes that a piece may take on each device, beside the weights; by default 16 MiB
            on CPUs, for their caches, and 1 GiB elsewhere.
        mesh: devices with the axes "points" and "images"; by default all devices of all hosts, as
            many of them along the images as there is use for.
        progress: whether to show a bar; by default on a terminal or in a notebook, for runs of
            more than a second.

    Returns:
        A dataset with a dimension for each axis of the grid that was given as a sequence or
        mapping, and `time` and `layer`:

        ======================  ==================  ==============================================
        variable                dimensions          meaning
        ======================  ==================  ==============================================
        accuracy                grid, time          fraction of images predicted correctly so far
        undecided               grid, time          fraction of images without a prediction so far
        spikes                  grid, time, layer   mean spikes of an image so far
        input_spikes            grid, time          mean input spikes of an image so far
        synaptic_operations     grid, time          mean effective operations of an image so far
        first_spike_accuracy    grid                fraction whose first output spike is right
        first_spike_latency     grid                median time of that spike in seconds, nan if
                                                    half of the images have none
        scale_factor            scales, layer       λ, if it is one number for each layer
        relu_accuracy                               accuracy of the ReLU network
        ======================  ==================  ==============================================

    Raises:
        ValueError: bad input, named with its remedy, before anything is compiled: images or labels
            that do not fit, a rule without calibration images, too little memory for one point, or
            a file that belongs to another sweep, is damaged, or that another sweep is writing.
        OSError: the files cannot be written; the message says what to do. Finished pieces are kept,
            and resumed when the sweep is called again.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> images, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), [0, 1]
        >>> grid = jaxsnn.Grid(scales=1.0, threshold=[0.5, 1.0, 8.0], duration=0.004)
        >>> data = jaxsnn.sweep(network, images, labels, grid)
        >>> data.accuracy.sel(threshold=1.0).values.tolist()
        [0.0, 1.0, 1.0, 1.0]
        >>> data.first_spike_latency.values.tolist()
        [0.001, 0.002, nan]
    """
    job = checked_job(network, images, labels, grid, calibration, encode, read, arithmetic)
    shared = jax.process_count() > 1 or (mesh is not None and mesh.size > 1)
    mesh = _default_mesh(len(job.images)) if mesh is None else _checked_mesh(mesh)
    from_first(lambda: check_path(path))
    points = make_points(job, calibration)
    swept = partial(_swept, engine=engine, shared=shared, mesh=mesh, memory=memory, show=progress)
    if path is not None and (finished := finished_part(path, job, points)) is not None:
        return grown(finished, job, points, Path(path).expanduser().absolute(), swept)
    return swept(job, points, path)


def _swept(
    job: SweepJob,
    points: Points,
    path: str | PathLike[str] | None,
    *,
    engine: EngineChoice,
    shared: bool,
    mesh: Mesh,
    memory: int | None,
    show: bool | None,
) -> xr.Dataset:
    """The result of a sweep, all of whose points are simulated, or were for a file."""
    keys = job.keys()
    first = run_of_point(job, points, (0, 0, 0, 0, 0), slice(0, 1), keys)
    chosen = _chosen(engine, first, shared)
    if on_mesh := hasattr(chosen, "simulate_points"):
        plan = planned(job, mesh, memory)
    else:
        longest = first._replace(steps=job.most_steps)
        plan = planned_one_by_one(job, chosen.bytes_per_sample(longest), memory)
    with Store(path, identity(job, points)) as store:
        if store.result is not None:
            return store.result
        if store.plan is None:
            store.begin(plan._asdict())
        else:
            plan = Plan(**store.plan)
            if on_mesh:
                check_memory(plan, job, mesh, memory)
        count = (
            _counter_on_mesh(chosen, job, points, keys, plan, mesh)
            if on_mesh
            else _counter_one_by_one(chosen, job, points, keys)
        )
        counts = _count_all(job, plan, count, store, show)
        data = _labelled(job, points, plan, counts, mesh)
        store.finish(data)
    return data


def _chosen(engine: EngineChoice, run: Run, shared: bool) -> Any:
    """The engine of a sweep; over several devices or processes, one that knows meshes."""
    chosen = choose("scan" if shared and engine == "auto" else engine, run)
    if shared and not hasattr(chosen, "simulate_points"):
        raise ValueError(
            f'engine="{chosen.name}" runs on one machine, without a mesh; take "scan".'
        )
    return chosen


def _counter_one_by_one(
    engine: Engine, job: SweepJob, points: Points, keys: np.ndarray
) -> Callable[[Block, slice], Counts]:
    """A function that simulates the points of a block on some images one by one, and counts."""
    same, _ = fan_outs(points.network.network)
    layers = len(job.network.layers)

    def count(block: Block, samples: slice) -> Counts:
        steps = job.grid.steps(job.grid.values("dt")[block.dt])
        sizes = [cut.stop - cut.start for cut in block[2:]]
        whole = Counts(*(np.zeros((*sizes, steps, *s), np.int64) for s in Counts.shapes(layers)))
        for place in np.ndindex(*sizes):
            seed, rate, point = (cut.start + at for cut, at in zip(block[2:], place, strict=True))
            at = block.reset, block.dt, seed, rate, point
            run = run_of_point(job, points, at, samples, keys)
            trajectory = engine.simulate(run, no_progress)
            if trajectory.spikes is None or trajectory.operations is None:
                raise ValueError(
                    f"the engine {engine.name!r} returns no spikes and operations of each step, "
                    "which a sweep counts; it must, where run.per_step is true."
                )
            found = counts_of(trajectory, job.labels[samples], same)
            for array, values in zip(whole, found, strict=True):
                array[place] = values
        return whole

    return count


def _counter_on_mesh(
    engine: Any, job: SweepJob, points: Points, keys: np.ndarray, plan: Plan, mesh: Mesh
) -> Callable[[Block, slice], Counts]:
    """A function that simulates the points of a block on some images at once, and counts."""
    grid, place = job.grid, partial(_place, mesh)
    network = jax.tree.map(lambda leaf: place(np.asarray(leaf)), points.network.bare())
    # The type of a product with a rate.
    number = points.network.probabilities(job.images[:1], 1.0, 1.0).dtype
    pixels = job.images.astype(number)
    _, varying = fan_outs(points.network.network)
    weights = [None if found is None else place(_as_weights(found)) for found in varying]
    size = plan._replace(
        points=rounded_up(plan.points, mesh.shape["points"]),
        images=rounded_up(plan.images, mesh.shape["images"]),
    )

    def count(block: Block, samples: slice) -> Counts:
        dt = grid.values("dt")[block.dt]
        seeds, rates, chosen, images = (
            np.minimum(np.arange(cut.start, cut.start + length), cut.stop - 1)
            for cut, length in zip((*block[2:], samples), size, strict=True)
        )
        periods = [in_steps(period, dt) for period in points.refractory_periods[chosen]]
        counts = engine.simulate_points(
            network,
            jax.tree.map(lambda values: place(values, "points"), points.chosen(chosen)),
            place(np.array(periods, np.int32), "points") if job.counts_refractory_steps else None,
            place(_factors(grid.values("max_rate"), dt, points.network)[rates].astype(number)),
            place(keys[np.ix_(seeds, images)], None, "images"),
            Labelled(
                place(pixels[images], "images"),
                place(job.labels[images], "images"),
                place(np.arange(size.images) < samples.stop - samples.start, "images"),
            ),
            weights,
            place(np.array(grid.steps(dt), np.int32)),
            padded_steps=padded_steps(job),
            behaviour=job.behaviour(block.reset),
            mesh=mesh,
            formats=fastest_formats(points.network),
        )
        kept = *(slice(cut.stop - cut.start) for cut in block[2:]), slice(grid.steps(dt))
        return Counts(*(np.asarray(array)[kept].astype(np.int64) for array in counts))

    return count


def _factors(rates: Sequence[float], dt: float, network: Executable) -> np.ndarray:
    """max_rate·dt of each rate: the probabilities of pixels of value 1."""
    one = np.ones(1)
    return np.concatenate([np.asarray(network.probabilities(one, rate, dt)) for rate in rates])


def _as_weights(fan_out: np.ndarray) -> np.ndarray:
    """Fan-outs as integers, whose sums are exact, if no sum can overflow."""
    small = fan_out.sum(dtype=np.float64) < 1 << 31
    return fan_out.astype(np.int32 if small else np.float32)


def _place(mesh: Mesh, array: np.ndarray, *axes: str | None) -> Array:
    """The array on the devices of all processes, cut along axes of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _count_all(
    job: SweepJob,
    plan: Plan,
    count: Callable[[Block, slice], Counts],
    store: Store,
    progress: bool | None,
) -> Counts:
    """The counts of all points [reset, dt, seed, max_rate, points, T, ...]."""
    blocks, pieces = plan.blocks(job), plan.batches(job)
    parts, size = len(blocks) * len(pieces), len(job.grid)
    title = f"sweeping in {parts} piece{'s' * (parts > 1)}"
    _log.info("%s: %d points, %d images", title, size, len(job.images))
    steps = [job.grid.steps(dt) for dt in job.grid.values("dt")]
    total = len(job.images) * sum(block.size * steps[block.dt] for block in blocks)
    options = {"desc": title, "unit": "image-step", "unit_scale": True, "total": total}
    shown = progress if jax.process_index() == 0 else False
    whole = no_counts(job)
    with progress_bar(shown, **options) as bar:
        for number, block in enumerate(blocks):
            done, sums = store.load(number)
            for index, piece in enumerate(pieces):
                work = block.size * steps[block.dt] * (piece.stop - piece.start)
                if index < done:
                    skip(bar, work)
                    continue
                found = count(block, piece)
                sums = list(map(np.add, sums, found)) if index else list(found)
                store.save(number, index + 1, sums)
                bar.set_postfix_str(f"{size * (bar.n + work) // total}/{size} points", False)
                bar.update(work)
            for array, values in zip(whole, sums, strict=True):
                array[(*block, slice(steps[block.dt]))] = values
    return whole


def _labelled(job: SweepJob, points: Points, plan: Plan, counts: Counts, mesh: Mesh) -> xr.Dataset:
    """The dataset of all counts, and where it comes from."""
    relu_accuracy = _relu_accuracy(job)
    devices = mesh.devices.ravel()
    return to_dataset(job, points, counts, relu_accuracy).assign_attrs(
        images=len(job.images),
        pieces=len(plan.blocks(job)) * len(plan.batches(job)),
        jax=version("jax"),
        jaxsnn=version("jaxsnn-conversion"),
        devices=f"{len(devices)} x {devices[0].device_kind}",
        arithmetic="float" if job.arithmetic is None else str(job.arithmetic),
    )


def _relu_accuracy(job: SweepJob) -> float:
    """The fraction of images that the ReLU network classifies correctly."""
    starts = range(0, len(job.images), _RELU_BATCH)
    cuts = [slice(start, start + _RELU_BATCH) for start in starts]
    scores = (np.asarray(_relu_outputs(job.network, job.images[cut])) for cut in cuts)
    correct = sum((row.argmax(-1) == job.labels[cut]).sum() for row, cut in zip(scores, cuts))
    return float(correct / len(job.images))


_relu_outputs = jax.jit(lambda network, images: network(images))


def _default_mesh(images: int) -> Mesh:
    """All devices, as many as there is use for along the images: they then share no work."""
    devices = np.asarray(jax.devices())
    along = max(n for n in range(1, len(devices) + 1) if len(devices) % n == 0 and n <= images)
    return Mesh(devices.reshape(-1, along), ("points", "images"))


def _checked_mesh(mesh: Mesh) -> Mesh:
    if set(mesh.axis_names) != {"points", "images"}:
        raise ValueError(
            f"mesh has the axes {mesh.axis_names}; it needs 'points' and 'images': "
            'jax.make_mesh((1, jax.device_count()), ("points", "images")).'
        )
    return mesh
