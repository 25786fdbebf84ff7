"""A grid of thresholds and rates: one call of `jaxsnn.sweep` beside loops over its points.

One run on one machine, for the paper's two networks: seconds of each point in the sweep, in one
call of `simulate`, in a Python loop of such calls, and in SpikingJelly. Exits with 1 if the
accuracies show that they do not run the same job.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch
import tyro
from peers import (
    DT,
    LARGEST_Z,
    NETWORKS,
    TorchPeer,
    channels_first,
    relu_network,
    sample_images,
    spikingjelly_peer,
    timed,
)
from spikingjelly.activation_based import neuron
from torch import Tensor

import jaxsnn
from jaxsnn.paper.reproduce import machine

PROGRAM = "simulate_points"  # what JAX's log calls the compiled program of a sweep
THRESHOLDS = (0.25, 2.0)  # in units of λ, from … to
RATES = (125.0, 1000.0)  # in hertz, from … to
PARTS = (1, 4, 10)  # SpikingJelly gets the images at once or in so many parts, whichever is faster
ROUNDING = 0.01  # of the images may be classified otherwise where only float32 rounding differs


@dataclass(frozen=True)
class Job:
    """A grid of thresholds and rates for one network.

    Attributes:
        network: the ReLU network.
        scales: its scale factors λ.
        images: pixels `[B, H, W, C]`.
        labels: classes `[B]`.
        thresholds: multiples of λ.
        rates: of a pixel of value 1, in hertz.
        steps: time steps of DT.
        every: loops over points take each so-many-th.
    """

    network: jaxsnn.Network
    scales: jax.Array
    images: jax.Array
    labels: np.ndarray
    thresholds: list[float]
    rates: list[float]
    steps: int
    every: int

    @property
    def size(self) -> int:
        """The number of points of the grid."""
        return len(self.thresholds) * len(self.rates)

    @property
    def subset(self) -> list[tuple[float, float]]:
        """The points of the loops: threshold and rate."""
        return list(product(self.thresholds, self.rates))[:: self.every]

    @cached_property
    def pixels(self) -> Tensor:
        """The images for PyTorch."""
        return torch.tensor(channels_first(np.asarray(self.images)))


def make_job(
    name: str, images: np.ndarray, weights: Path | None, *, grid: int, steps: int, every: int
) -> Job:
    """A grid × grid job; the labels are the classes of the ReLU network.

    With labels of its own, a network with random weights too has an accuracy: how often its spikes
    say what its ReLUs say.
    """
    network = relu_network(name, images, weights)
    scales = jaxsnn.data_based_scales(network, images)
    return Job(
        network=network,
        scales=scales,
        images=jnp.asarray(images),
        labels=np.asarray(network(images).argmax(1)),
        thresholds=np.geomspace(*THRESHOLDS, grid).tolist(),
        rates=np.linspace(*RATES, grid).tolist(),
        steps=steps,
        every=every,
    )


# -- The contestants -------------------------------------------------------------------------------


def sweep(job: Job) -> np.ndarray:
    """Accuracies of all points `[points, T]`, in one call."""
    grid = jaxsnn.Grid(
        scales={"data-based": job.scales},
        threshold=job.thresholds,
        max_rate=job.rates,
        dt=DT,
        seed=0,
        duration=job.steps * DT,
    )
    data = jaxsnn.sweep(job.network, job.images, job.labels, grid, progress=False)
    accuracy = data.accuracy.transpose("scales", "threshold", "max_rate", "time")
    return accuracy.values.reshape(job.size, job.steps)


def simulate(job: Job, threshold: float, rate: float) -> jaxsnn.Simulation:
    """One point: θ = threshold·λ, and a spike weighs λ."""
    snn = jaxsnn.balance_thresholds(job.network, job.scales)
    snn = replace(snn, thresholds=[threshold * scale for scale in snn.thresholds])
    return jaxsnn.simulate(
        snn, job.images, key=0, duration=job.steps * DT, dt=DT, max_rate=rate, progress=False
    )


def loop(job: Job) -> np.ndarray:
    """Accuracies of the subset of points `[points, T]`, in one call of `simulate` for each."""
    runs = (simulate(job, *point) for point in job.subset)
    return np.stack([np.asarray(run.accuracy(job.labels)) for run in runs])


@dataclass(frozen=True)
class SpikingJelly:
    """SpikingJelly on the network with normalised weights, where thresholds are multiples of 1.

    Attributes:
        peer: the network, single-step or multi-step.
        parts: the number of parts into which the images are split.
    """

    peer: TorchPeer
    parts: int

    def __str__(self) -> str:
        mode = "multi-step" if self.peer.multi_step else "single-step"
        return mode if self.parts == 1 else f"{mode}, {self.parts} parts"

    def classify(self, job: Job, threshold: float, rate: float) -> Tensor:
        """The class after every step `[T, B]`, 0 for a silent output."""
        for module in self.peer.net:
            if isinstance(module, neuron.IFNode):
                module.v_threshold = threshold
        pixels = job.pixels * (rate * DT)
        parts = [self.peer.classify(part, job.steps) for part in pixels.chunk(self.parts)]
        return torch.cat(parts, 1)

    def loop(self, job: Job) -> np.ndarray:
        """Accuracies of the subset of points `[points, T]`."""
        labels = torch.tensor(job.labels)
        predictions = (self.classify(job, *point) for point in job.subset)
        return np.stack([(p == labels).float().mean(1).numpy() for p in predictions])


def fastest_spikingjelly(job: Job) -> tuple[SpikingJelly, dict[str, float]]:
    """Single-step or multi-step, and in how many parts: the fastest, and the seconds of all."""
    snn = jaxsnn.normalize_weights(job.network, job.scales)
    peers = [spikingjelly_peer(snn, "to zero", multi_step=multi) for multi in (False, True)]
    candidates = [SpikingJelly(peer, parts) for peer, parts in product(peers, PARTS)]
    jobs = {str(c): lambda c=c: c.classify(job, *job.subset[0]) for c in candidates}
    # The first round does not count.
    rounds = [{name: timed(run, 1) for name, run in jobs.items()} for _ in range(3)][1:]
    seconds = {name: min(times[name] for times in rounds) for name in jobs}
    return min(candidates, key=lambda c: seconds[str(c)]), seconds


# -- Is it the same job? ---------------------------------------------------------------------------


def same_job(job: Job, accuracies: np.ndarray, peer: SpikingJelly) -> dict[str, float]:
    """The largest differences in accuracy, over the subset of points and all steps.

    The sweep and `simulate` draw the same input spikes. SpikingJelly draws its own: z is the mean
    over images of the difference in being right, in its standard errors. It calls a silent output
    class 0, and so do we in this comparison.
    """
    runs = (simulate(job, *point) for point in job.subset)
    measured = [(run.predictions, run.accuracy(job.labels)) for run in runs]
    ours, looped = map(np.stack, zip(*measured))
    theirs = np.stack([peer.classify(job, *point).numpy() for point in job.subset])
    gain = (np.maximum(ours, 0) == job.labels) * 1.0 - (theirs == job.labels)
    error = gain.std(2, ddof=1) / len(job.labels) ** 0.5 + 1e-12
    return {
        "sweep and loop, accuracy": float(abs(accuracies[:: job.every] - looped).max()),
        "jaxsnn and SpikingJelly, accuracy": float(abs(gain.mean(2)).max()),
        "jaxsnn and SpikingJelly, |z|": float((abs(gain.mean(2)) / error).max()),
        "lowest final accuracy": float(accuracies[:, -1].min()),
        "highest final accuracy": float(accuracies[:, -1].max()),
    }


def is_same(differences: dict[str, float], images: int) -> bool:
    """Whether the differences are rounding and noise; one image may always differ."""
    rounding = differences["sweep and loop, accuracy"] < max(ROUNDING, 1.5 / images)
    return rounding and differences["jaxsnn and SpikingJelly, |z|"] < LARGEST_Z


# -- The measurement -------------------------------------------------------------------------------


class Compilations(logging.Handler):
    """What JAX's log says of the program of a sweep.

    Attributes:
        number: how often it was compiled.
        seconds: of tracing, lowering and compiling it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number, self.seconds = 0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.number += f"Compiling jit({PROGRAM})" in message
        if PROGRAM in message and (found := re.search(r" in ([\d.e+-]+) sec", message)):
            self.seconds += float(found[1])

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is compiled within, and print nothing."""
        logger = logging.getLogger("jax")
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(self)
        try:
            with jax.log_compiles():
                yield
        finally:
            logger.removeHandler(self)
            logger.propagate = propagate


def race(job: Job, *, repeats: int) -> dict[str, Any]:
    """Seconds of each point: A B C D, A B C D, …; the first calls do not count."""
    compilations = Compilations()

    def counted_sweep() -> np.ndarray:
        with compilations.counted():
            return sweep(job)

    accuracies: list[np.ndarray] = []
    first = timed(lambda: accuracies.append(counted_sweep()), 1)
    peer, trial = fastest_spikingjelly(job)
    differences = same_job(job, accuracies[0], peer)
    middle = job.subset[len(job.subset) // 2]
    number = len(job.subset)
    # Each job with the number of times it is called, and of points in a call.
    jobs: dict[str, tuple[Callable[[], Any], int, int]] = {
        "sweep": (counted_sweep, 1, job.size),
        "simulate": (lambda: jax.block_until_ready(simulate(job, *middle)), number, 1),
        "loop of simulate": (lambda: loop(job), 1, number),
        "SpikingJelly": (lambda: peer.loop(job), 1, number),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, (run, calls, points) in jobs.items():
            seconds[name].append(timed(run, calls) / points)
    # The trial of the fastest took as long as the others at a point, if nothing else was running.
    measured = seconds | {"SpikingJelly": [*seconds["SpikingJelly"], trial[str(peer)]]}
    return {
        "points": job.size,
        "points of the loops": number,
        "seconds per point": seconds,
        "spread": {name: max(values) / min(values) for name, values in measured.items()},
        "SpikingJelly": str(peer),
        "SpikingJelly, seconds of one point": trial,
        "compilations of the sweep": compilations.number,
        "seconds of compilation": compilations.seconds,
        "seconds of the first sweep": first,
        "largest differences": differences,
    }


def as_row(network: str, result: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: medians in milliseconds per point, and how many times a sweep's.

    The spread is the largest ratio of two measurements of one thing: near 1 on a quiet machine.
    """
    medians = {name: median(values) for name, values in result["seconds per point"].items()}
    loops = f", {result['points of the loops']} of {result['points']} points"
    names = {"loop of simulate": "loop" + loops, "SpikingJelly": "SpikingJelly" + loops}
    shown = {f"{names.get(name, name)} (ms)": f"{1e3 * t:,.0f}" for name, t in medians.items()}
    ratios = {
        f"{name} / sweep": f"{medians[name] / medians['sweep']:.2f}"
        for name in ("simulate", "loop of simulate", "SpikingJelly")
    }
    compiled = {
        "compilations": result["compilations of the sweep"],
        "compilation (s)": f"{result['seconds of compilation']:.1f}",
        "spread": f"{max(result['spread'].values()):.2f}",
    }
    return {"network": network, **shown, **ratios, **compiled}


# -- The command line ------------------------------------------------------------------------------


def main(
    grid: int = 8,
    images: int = 1000,
    steps: int = 50,
    every: int = 9,
    repeats: int = 3,
    quick: bool = False,
    weights: Path | None = None,
    output: Path = Path(__file__).parent / "results" / "sweep.json",
) -> None:
    """Time a grid of thresholds and rates in one sweep, and in loops over its points.

    Args:
        grid: so many thresholds, from 0.25 to 2 times λ, and as many rates, from 125 to 1,000 Hz.
        images: test images, simulated at each point.
        steps: time steps of 1 ms.
        every: the loops take each so-many-th point; grid + 1 takes the diagonal.
        repeats: interleaved measurements of each; the table has their medians.
        quick: a short run that only shows that everything works.
        weights: a folder with weights, as for peers.py; by default He-random weights.
        output: the file for the results.
    """
    if quick:
        grid, images, steps, every, repeats = 2, 20, 10, 3, 1
    pixels = sample_images(images)
    results: dict[str, Any] = {
        "machine": machine()
        | {"threads": torch.get_num_threads(), "load at the start": os.getloadavg()}
        | {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY")}
        | {name: version(name) for name in ("jaxlib", "torch", "spikingjelly")},
        "settings": {"grid": grid, "thresholds": THRESHOLDS, "rates": RATES, "images": images}
        | {"steps": steps, "every": every, "repeats": repeats}
        | {"trained weights": weights is not None},
        "networks": {},
    }
    with torch.no_grad():
        for name in NETWORKS:
            job = make_job(name, pixels, weights, grid=grid, steps=steps, every=every)
            results["networks"][name] = race(job, repeats=repeats)
    results["machine"]["load at the end"] = os.getloadavg()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    differences = {name: r["largest differences"] for name, r in results["networks"].items()}
    print(pd.DataFrame(differences).to_markdown(floatfmt=".4f"), end="\n\n")
    table = [as_row(name, result) for name, result in results["networks"].items()]
    print(pd.DataFrame(table).to_markdown(index=False, disable_numparse=True))
    if not all(is_same(values, images) for values in differences.values()):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
