"""What the scripts about jaxsnn alone share: trained networks, measurements, and results kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jaxsnn
from jaxsnn.engines import Engine, Executable, Run
from jaxsnn.paper.pretrained import trained_network
from jaxsnn.paper.reproduce import machine

DT = 1e-3
RESULTS = Path(__file__).parent / "results"
MODELS = {"FullyConnected": jaxsnn.networks.FullyConnected, "ConvNet": jaxsnn.networks.ConvNet}
RECIPES = {"FullyConnected": "fc-modern", "ConvNet": "conv-modern"}

Name = Literal["FullyConnected", "ConvNet"]


# -- Networks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """The paper's networks, trained on MNIST.

    Attributes:
        weights: a folder with FullyConnected.npz and ConvNet.npz, as for peers.py; by default the
            networks are trained, or taken from the cache.
        cache: the folder for trained networks; by default the user's cache folder.
        data_dir: the data directory of TensorFlow Datasets; by default its own.
    """

    weights: Path | None = None
    cache: Path | None = None
    data_dir: Path | None = None

    @cached_property
    def data(self) -> tuple[jaxsnn.Dataset, jaxsnn.Dataset]:
        """MNIST, to train with and to test with."""
        return jaxsnn.load_dataset("mnist", data_dir=self.data_dir)

    @lru_cache  # noqa: B019 - there is one, for as long as the script runs
    def scaled(self, name: Name) -> tuple[jaxsnn.Network, Any]:
        """The ReLU network, and its scale factors on all training images."""
        network = self._network(name)
        return network, jaxsnn.data_based_scales(network, self.data[0].images)

    def spiking(self, name: Name) -> jaxsnn.SpikingNetwork:
        """The spiking network with balanced thresholds."""
        return jaxsnn.balance_thresholds(*self.scaled(name))

    def _network(self, name: Name) -> jaxsnn.Network:
        train, _ = self.data
        if self.weights is None:
            return trained_network(RECIPES[name], train, cache=self.cache)
        model = MODELS[name](rngs=nnx.Rngs(0))
        model.eval()
        network = jaxsnn.read_network(model, train.images[:1])
        arrays = np.load(self.weights / f"{name}.npz").values()
        return jax.tree.unflatten(jax.tree.structure(network), map(jnp.asarray, arrays))


Source = Annotated[Trained, tyro.conf.arg(name="")]  # its fields are options of their own


# -- Measurements ----------------------------------------------------------------------------------


def timed(job: Callable[[], Any], number: int = 1) -> float:
    """Seconds of one call whose result is ready, as the mean over so many."""
    start = perf_counter()
    for _ in range(number):
        jax.block_until_ready(job())
    return (perf_counter() - start) / number


def interleaved(
    jobs: dict[str, Callable[[], Any]], repeats: int, shortest: float = 0.2
) -> dict[str, list[float]]:
    """Seconds of a call of each: A B C, A B C, …; the first calls, which compile, do not count.

    A job that takes less than `shortest` seconds is called many times in a measurement.
    """
    for job in jobs.values():
        jax.block_until_ready(job())
    numbers = {name: max(1, ceil(shortest / timed(job))) for name, job in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            seconds[name].append(timed(job, numbers[name]))
    return seconds


def medians(found: dict[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: median(values) for name, values in found.items()}


def captured(engine: type[Engine], network: Executable, images: Any, steps: int) -> Run:
    """What a call of `simulate` hands to an engine, for the first part of the batch."""
    runs: list[Run] = []

    class Watched(engine):
        def simulate(self, run: Run, advance: Callable[[int], Any]) -> Any:
            runs.append(run)
            return super().simulate(run, advance)

    duration = steps * DT
    jaxsnn.simulate(network, images, key=0, duration=duration, engine=Watched(), progress=False)
    return runs[0]


# -- Results ---------------------------------------------------------------------------------------


def new_results(**settings: Any) -> dict[str, Any]:
    """Results of nothing yet: the machine, its versions and load, and the settings."""
    load = {"load at the start": os.getloadavg()}
    return {"machine": machine() | load, "settings": settings}


def save(results: dict[str, Any], output: Path) -> None:
    """Write all results so far."""
    results["machine"]["load at the end"] = os.getloadavg()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")


def save_figure(figure: Any, output: Path) -> None:
    """The figure of some results, beside them."""
    figure.savefig(output.with_suffix(".png"), dpi=150)
