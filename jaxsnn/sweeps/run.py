"""Sweeps over a grid of settings: in pieces, resumable, with labelled results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from os import PathLike
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsnn import encoding, neurons, readout, training
from jaxsnn.datasets import Dataset
from jaxsnn.events import Engine, serve
from jaxsnn.fixed_point import FixedPoint
from jaxsnn.network import Network
from jaxsnn.progress import progress_bar, skip
from jaxsnn.state import Rules
from jaxsnn.sweeps.counts import Counts, no_counts, to_dataset
from jaxsnn.sweeps.events import event_runner
from jaxsnn.sweeps.grid import Grid
from jaxsnn.sweeps.job import Job, Points, checked_job, identity, make_points
from jaxsnn.sweeps.plan import Block, Plan, check_memory, planned, planned_for_events
from jaxsnn.sweeps.program import piece_runner
from jaxsnn.sweeps.store import Store, check_path, from_first
from jaxsnn.typed import Count, Images, Numbers, typed

if TYPE_CHECKING:
    import xarray as xr

_log = logging.getLogger("jaxsnn")


@typed
def sweep(
    network: Network,
    images: Images,
    labels: Numbers,
    grid: Grid,
    *,
    calibration: Images | None = None,
    encode: encoding.Encoding = encoding.poisson,
    read: readout.Readout = readout.spike_count,
    arithmetic: FixedPoint | None = None,
    engine: Engine = "auto",
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
        images: images `[N, ...]` with pixels in [0, 1].
        labels: their classes `[N]`.
        grid: the settings to combine.
        calibration: images for the grid's scale rules that look at activations, usually the
            training set.
        encode: how pixels drive the first layer.
        read: how a class is read from the output layer.
        arithmetic: `FixedPoint(bits)` rounds weights and thresholds to integers: counts are then
            the same bit for bit whatever computes them. By default floating point.
        engine: "scan", "events" or "auto", as in `jaxsnn.simulate`; the event-driven engine
            simulates the points of a fixed-point sweep one after the other on the cores of a CPU.
        path: a netCDF file for the result, written when all is done. Until then finished pieces
            are kept in a folder beside it, `<path>.partial`. Called again, the sweep is resumed,
            and when it is done it is read from the file. Of several sweeps to one path at the same
            time all but the first raise ValueError.
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
        accuracy                grid, time          fraction of images predicted rightly so far
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
    events = _events_serve(job, points, engine, shared)
    plan = planned_for_events(job, memory) if events else planned(job, mesh, memory)
    with Store(path, identity(job, points)) as store:
        if store.result is not None:
            return store.result
        if store.plan is None:
            store.begin(plan._asdict())
        else:
            plan = Plan(**store.plan)
            if not events:
                check_memory(plan, job, mesh, memory)
        run = event_runner(job, points) if events else piece_runner(job, points, plan, mesh)
        counts = _count_all(job, plan, run, store, progress)
        data = _labelled(job, points, plan, counts, mesh)
        store.finish(data)
    return data


def _events_serve(job: Job, points: Points, engine: Engine, shared: bool) -> bool:
    """Whether the event-driven engine simulates the points; it knows no meshes."""
    if shared and engine == "auto":
        return False
    if shared and engine == "events":
        raise ValueError('engine="events" runs on one machine, without a mesh; take "scan".')
    resets = job.grid.values("reset")
    rules = Rules(job.encode, resets[0], neurons.heaviside, job.read)
    return serve(engine, points.network, rules, traced=False)


def _count_all(
    job: Job,
    plan: Plan,
    run: Callable[[Block, slice], Counts],
    store: Store,
    progress: bool | None,
) -> Counts:
    """The counts of all points [reset, dt, seed, max_rate, points, T, ...]."""
    blocks, pieces = plan.blocks(job), plan.pieces(job)
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
                found = run(block, piece)
                sums = list(map(np.add, sums, found)) if index else list(found)
                store.save(number, index + 1, sums)
                bar.set_postfix_str(f"{size * (bar.n + work) // total}/{size} points", False)
                bar.update(work)
            for array, values in zip(whole, sums, strict=True):
                array[(*block, slice(steps[block.dt]))] = values
    return whole


def _labelled(job: Job, points: Points, plan: Plan, counts: Counts, mesh: Mesh) -> xr.Dataset:
    """The dataset of all counts, and where it comes from."""
    scores = partial(_relu_outputs, job.network)
    relu_accuracy = training.accuracy(scores, Dataset(job.images, job.labels))
    devices = mesh.devices.ravel()
    return to_dataset(job, points, counts, relu_accuracy).assign_attrs(
        images=len(job.images),
        pieces=len(plan.blocks(job)) * len(plan.pieces(job)),
        jax=version("jax"),
        jaxsnn=version("jaxsnn-conversion"),
        devices=f"{len(devices)} x {devices[0].device_kind}",
        arithmetic="float" if job.arithmetic is None else str(job.arithmetic),
    )


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
