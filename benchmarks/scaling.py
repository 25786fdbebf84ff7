"""How do time and memory grow with batch, duration, width, depth, and the number of devices?

Each point is measured in a process of its own: seconds of a call, and how far the memory of the
process rises during it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from common import (
    DT,
    MODELS,
    RESULTS,
    Name,
    Source,
    Trained,
    interleaved,
    new_results,
    save,
    save_figure,
)
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxsnn
from jaxsnn.support.figures import COLORS, SMALL, new_figure

ENGINES = ("float32, scan", "8 bits, scan", "8 bits, events")
LABELS = {"batch": "images", "steps": "time steps", "width": "neurons of a layer"}
LABELS |= {"depth": "hidden layers", "devices": "devices, on 2 cores"}
MB = 1e6

Axis = Literal["batch", "steps", "width", "depth", "devices"]


@dataclass(frozen=True)
class Point:
    """What one process measures.

    Attributes:
        axis: what grows along the points.
        network: the name of the network.
        snn: the network, with arrays of NumPy.
        images: pixels `[B, ...]`.
        labels: classes `[B]`.
        steps: time steps.
        value: where the point is on the axis.
    """

    axis: Axis
    network: str
    snn: jaxsnn.SpikingNetwork
    images: np.ndarray
    labels: np.ndarray
    steps: int
    value: int


# -- The points ------------------------------------------------------------------------------------


def dense_network(width: int, depth: int, images: np.ndarray) -> jaxsnn.SpikingNetwork:
    """A network with so many hidden layers and He-random weights, normalised on the images."""
    model = jaxsnn.networks.FullyConnected((784, *[width] * depth, 10), rngs=nnx.Rngs(0))
    model.eval()
    network = jaxsnn.read_network(model, images[:1])
    return jaxsnn.normalize_weights(network, jaxsnn.data_based_scales(network, images))


@dataclass(frozen=True)
class Plan:
    """The points of all axes: the values along each, and what the other axes have meanwhile.

    Attributes:
        batches: images of a call, in so many steps.
        steps: time steps of a call, for so many images.
        widths: neurons in each of two hidden layers.
        depths: hidden layers of so many neurons.
        devices: forced devices of the host.
    """

    batches: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    steps: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    depths: tuple[int, ...] = (1, 2, 4, 8, 16)
    devices: tuple[int, ...] = (1, 2, 4, 8)


QUICK = Plan((1, 10), (10,), (64,), (4,), (2,))
USUAL_STEPS, USUAL_WIDTH = 100, 512
IMAGES = {"steps": 100, "dense": 20, "devices": 400}


def all_points(source: Trained, networks: tuple[Name, ...], plan: Plan) -> Iterator[Point]:
    """The points of all axes, one after the other."""
    test = source.data[1]
    most = max(*plan.batches, *IMAGES.values())
    images, labels = test.images[:most], np.asarray(test.labels[:most])

    def point(axis: Axis, name: str, snn: Any, value: int, batch: int, steps: int) -> Point:
        return Point(axis, name, snn, images[:batch], labels[:batch], steps, value)

    for name in networks:
        snn = source.spiking(name)
        for batch in plan.batches:
            yield point("batch", name, snn, batch, batch, USUAL_STEPS)
        for steps in plan.steps:
            yield point("steps", name, snn, steps, IMAGES["steps"], steps)
        for devices in plan.devices:
            yield point("devices", name, snn, devices, IMAGES["devices"], USUAL_STEPS)
    for width in plan.widths:
        snn = dense_network(width, 2, images[:100])
        yield point("width", "dense", snn, width, IMAGES["dense"], USUAL_STEPS)
    for depth in plan.depths:
        snn = dense_network(USUAL_WIDTH, depth, images[:100])
        yield point("depth", "dense", snn, depth, IMAGES["dense"], USUAL_STEPS)


# -- In a process of its own -----------------------------------------------------------------------


def in_a_process(work: Callable[..., Any], *arguments: Any, devices: int = 1) -> Any:
    """Do it in a fresh process, where JAX sees so many devices."""
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()
    finally:
        os.environ.pop("XLA_FLAGS")
        if before is not None:
            os.environ["XLA_FLAGS"] = before


def measure(point: Point, repeats: int) -> list[dict[str, Any]]:
    """Seconds and memory of each engine at a point."""
    snn = jax.tree.map(jnp.asarray, point.snn)
    fixed = jaxsnn.quantize(snn)
    images = jnp.asarray(point.images)
    call = partial(
        jaxsnn.simulate, images=images, key=0, duration=point.steps * DT, dt=DT, progress=False
    )
    jobs: dict[str, Callable[[], Any]] = {
        "float32, scan": partial(call, snn, engine="scan"),
        "8 bits, scan": partial(call, fixed, engine="scan"),
        "8 bits, events": partial(call, fixed, engine="events"),
    }
    seconds = interleaved(jobs, repeats)
    rows = []
    for name, job in jobs.items():
        peak, run = memory_of(job)
        spikes = sum(float(np.asarray(c, np.float64).sum()) for c in run.spike_counts)
        neurons = sum(np.asarray(c).size for c in run.spike_counts)
        rows.append(
            {"axis": point.axis, "network": point.network, "value": point.value}
            | {"batch": len(images), "steps": point.steps, "engine": name}
            | {"seconds": seconds[name], "memory (MB)": peak}
            | {"predictions (MB)": np.asarray(run.predictions).nbytes / MB}
            | {"spikes per neuron and step": spikes / neurons / point.steps}
        )
    return rows


def measure_devices(point: Point, repeats: int) -> list[dict[str, Any]]:
    """Seconds of a simulation and of a sweep, both laid out over all devices."""
    snn = jax.tree.map(jnp.asarray, point.snn)
    count = len(jax.devices())
    assert count == point.value
    parts = NamedSharding(Mesh(jax.devices(), ("images",)), PartitionSpec("images"))
    images = jax.device_put(point.images, parts)
    grid = jaxsnn.Grid(
        scales={"data-based": snn.thresholds}, threshold=[0.5, 1.0], duration=point.steps * DT
    )
    jobs: dict[str, Callable[[], Any]] = {
        "simulate": partial(
            jaxsnn.simulate, snn, images, key=0, duration=point.steps * DT, progress=False
        ),
        "sweep of 2 points": partial(
            jaxsnn.sweep,
            snn.network,
            point.images,
            point.labels,
            grid,
            mesh=jax.make_mesh((1, count), ("points", "images")),
            progress=False,
        ),
    }
    found = interleaved(jobs, repeats)
    same = {"axis": point.axis, "network": point.network, "value": count}
    same |= {"batch": len(images), "steps": point.steps}
    return [same | {"engine": name, "seconds": seconds} for name, seconds in found.items()]


# -- Memory ----------------------------------------------------------------------------------------


def memory_of(job: Callable[[], Any]) -> tuple[float, Any]:
    """How many MB the memory of the process rises during a call, and what the call returns.

    On Linux what is free is given back first, and the peak is that of the call alone. Elsewhere it
    is how far the call raises the peak of the whole process: a lower bound.
    """
    gc.collect()
    alone = _reset_peak()
    before = _status("VmRSS") if alone else _peak()
    run = jax.block_until_ready(job())
    return ((_status("VmHWM") if alone else _peak()) - before) / MB, run


def _reset_peak() -> bool:
    """Give free memory back and begin to measure the peak anew, where that is possible."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """A line of the status of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name} in /proc/self/status")


def _peak() -> int:
    """The largest memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# -- Tables and the figure -------------------------------------------------------------------------


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each axis milliseconds of a call, and then its memory."""
    data = pd.DataFrame(rows)
    data["milliseconds"] = [1e3 * median(seconds) for seconds in data["seconds"]]
    for axis, found in data.groupby("axis", sort=False):
        for column, what in (("milliseconds", "ms"), ("memory (MB)", "MB")):
            if column not in found or found[column].isna().all():
                continue
            table = found.pivot_table(
                column, ["network", "engine"], "value", sort=False, aggfunc="first"
            )
            shown = table.map(lambda value: f"{value:,.3g}" if value < 100 else f"{value:,.0f}")
            shown.columns = [f"{value:,}" for value in shown.columns]
            shown = shown.reset_index().rename(columns={"engine": f"{what}; {LABELS[str(axis)]}:"})
            yield shown.to_markdown(index=False, disable_numparse=True)


def draw(rows: list[dict[str, Any]]) -> Any:
    """Time and memory along all axes, both logarithmic."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    data = pd.DataFrame(rows)
    data["time of a call (ms)"] = [1e3 * median(seconds) for seconds in data["seconds"]]
    data = data.rename(columns={"memory (MB)": "memory of a call (MB)"})
    axes = [axis for axis in LABELS if (data["axis"] == axis).any()]
    figure = new_figure(3.1 * len(axes), 6.2)
    grid = figure.subplots(2, len(axes), squeeze=False, sharey="row")
    lines: dict[str, Any] = {}
    for column, axis in zip(grid.T, axes, strict=True):
        found = data[data["axis"] == axis]
        for ax, name in zip(column, ("time of a call (ms)", "memory of a call (MB)"), strict=True):
            lines |= _draw_lines(ax, found, name)
            ax.set(xscale="log", yscale="log", xlabel=LABELS[axis])
            ax.xaxis.set_major_locator(FixedLocator(sorted(set(found["value"]))[::-2]))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.grid(color="#dddddd", lw=0.6)
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=SMALL)
            if ax in grid[:, 0]:
                ax.set_ylabel(name)
    for ax in (ax for ax in grid[1] if not ax.lines):
        ax.remove()
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_lines(ax: Any, found: pd.DataFrame, column: str) -> dict[str, Any]:
    """A line for each engine, dashed for the ConvNet and dotted for dense networks."""
    styles = {"FullyConnected": "-", "ConvNet": (0, (4, 2)), "dense": (0, (1, 1))}
    colors = dict(zip([*ENGINES, "simulate", "sweep of 2 points"], COLORS))
    lines = {}
    for (network, engine), line in found.groupby(["network", "engine"], sort=False):
        known = line[line[column] > 0] if column in line else line[:0]
        if len(known):
            (drawn,) = ax.plot(
                known["value"],
                known[column],
                color=colors[str(engine)],
                ls=styles[str(network)],
                marker=".",
                lw=1.3,
            )
            lines[f"{network}, {engine}"] = drawn
    return lines


# -- The command line ------------------------------------------------------------------------------


def main(
    source: Source = Trained(),  # noqa: B008 - it is frozen
    networks: tuple[Name, ...] = tuple(MODELS),
    axes: tuple[Axis, ...] = ("batch", "steps", "width", "depth", "devices"),
    repeats: int = 3,
    quick: bool = False,
    output: Path = RESULTS / "scaling.json",
) -> None:
    """Measure how time and memory grow.

    Args:
        source: where networks and data come from.
        networks: which of the paper's networks; width and depth have networks of their own.
        axes: along which it is measured.
        repeats: interleaved measurements of each; tables have their medians.
        quick: a short run that only shows that everything works.
        output: the file for the results, written after each point.
    """
    plan = QUICK if quick else Plan()
    if quick:
        networks, repeats = networks[:1], 1
    results = new_results(repeats=repeats, images=IMAGES, steps=USUAL_STEPS, width=USUAL_WIDTH)
    results["rows"] = []
    for point in all_points(source, networks, plan):
        if point.axis not in axes:
            continue
        sent = replace(point, snn=jax.tree.map(np.asarray, point.snn))
        on_devices = point.axis == "devices"
        results["rows"] += in_a_process(
            measure_devices if on_devices else measure,
            sent,
            repeats,
            devices=point.value if on_devices else 1,
        )
        save(results, output)
        print(point.network, point.axis, point.value, "done", file=sys.stderr, flush=True)
    save_figure(draw(results["rows"]), output)
    print("\n\n".join(tables(results["rows"])))


if __name__ == "__main__":
    tyro.cli(main)
