"""Everything that needs an accelerator, in one command: is it exact, and how fast is it?

Writes results/on_gpu.json after each part, prints a line for each check, and ends with 1 if one
fails. Without an accelerator, `--quick` runs the same in a small form.

    exactness    in fixed point the accelerator gives the very spikes of the host, for all images
    throughput   image-steps per second of three networks, float32 and 8 bits, beside the rate at
                 which the device multiplies matrices, and beside SpikingJelly where it is installed
    sweep        64 points at once, beside 64 calls
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
import zoo
from common import DT, MODELS, RESULTS, interleaved, medians, new_results, save
from flax import nnx

import jaxsnn

SIZE = 8192  # of the matrices whose product shows what the device can do
Network = tuple[jaxsnn.SpikingNetwork, np.ndarray]  # with images for it


def networks(images: np.ndarray) -> dict[str, Network]:
    """The paper's two networks as in the paper, and a residual one with the settings of `convert`.

    Their weights are drawn at random, as trained ones would change neither the work nor exactness.
    """
    found: dict[str, Network] = {}
    for name, model_class in MODELS.items():
        model = model_class(rngs=nnx.Rngs(0))
        model.eval()
        network = jaxsnn.read_network(model, images[:1])
        scales = jaxsnn.percentile_scales(network, images[:200], progress=False)
        found[name] = jaxsnn.balance_thresholds(network, scales), images
    small = images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    residual = zoo.NETWORKS["ResNet"](rngs=nnx.Rngs(0))
    residual.eval()
    found["ResNet"] = jaxsnn.convert(residual, small[:200], progress=False), small
    return found


def run(snn: Any, images: Any, steps: int) -> jaxsnn.Simulation:
    """A run of the scan, finished."""
    found = jaxsnn.simulate(
        snn, images, key=0, duration=steps * DT, dt=DT, engine="scan", progress=False
    )
    return jax.block_until_ready(found)


def differing(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int) -> int:
    """In how many numbers the device and the host differ: spike counts, classes, potentials."""
    fixed = jaxsnn.quantize(snn, bits=8)
    there = run(fixed, images, steps)
    with jax.default_device(jax.devices("cpu")[0]):
        here = run(fixed, images, steps)
    pairs = [*zip(there.spike_counts, here.spike_counts), (there.predictions, here.predictions)]
    pairs += [(a.potential, b.potential) for a, b in zip(there.state.neurons, here.state.neurons)]
    return sum(int(np.sum(np.asarray(a) != np.asarray(b))) for a, b in pairs)


def products_per_second(size: int) -> float:
    """Multiply-adds per second of a product of matrices of float32, as the scan computes them."""
    matrix = jnp.ones((size, size))
    multiply = jax.jit(partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))
    (seconds,) = medians(interleaved({"": lambda: multiply(matrix, matrix)}, 5)).values()
    return size**3 / seconds


def jobs_of(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int) -> dict[str, Callable]:
    """The same batch in floating and in fixed point, on the device."""
    on_device = jax.device_put(images)
    arithmetics = {"float32": snn, "8 bits": jaxsnn.quantize(snn, bits=8)}
    return {name: partial(run, made, on_device, steps) for name, made in arithmetics.items()}


def peer_job(name: str, images: np.ndarray, steps: int) -> Callable[[], Any] | None:
    """SpikingJelly's spiking form of the residual network on the same card, if there is one."""
    if name != "ResNet" or not find_spec("spikingjelly"):
        return None
    import torch
    from architectures import PER_CHANNEL, converted_by_spikingjelly, recipes
    from spikingjelly.activation_based import functional
    from twins import as_torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    snn = converted_by_spikingjelly(recipes()[PER_CHANNEL], name, images[:200], images[:50])
    snn, pixels = snn.to(device), as_torch(images).to(device)

    def job() -> Any:
        functional.reset_net(snn)
        with torch.no_grad():
            return sum(snn(pixels) for _ in range(steps)).cpu().numpy()

    return job


def throughput(made: dict[str, Network], batches: tuple[int, ...], steps: int, most: float) -> Any:
    """A row for each network and batch: image-steps per second, and the share of the products."""
    for name, (snn, images) in made.items():
        for batch in batches:
            some = np.resize(images, (batch, *images.shape[1:]))
            jobs = jobs_of(snn, some, steps)
            if (peer := peer_job(name, some, steps)) is not None:
                jobs["SpikingJelly"] = peer
            seconds = medians(interleaved(jobs, 3))
            rates = {job: batch * steps / time for job, time in seconds.items()}
            share = rates["float32"] * jaxsnn.metrics.dense_operations(snn.network) / most
            yield {"network": name, "batch": batch, **rates, "of the products": share}


def swept(snn: jaxsnn.SpikingNetwork, images: np.ndarray, points: int, steps: int) -> Any:
    """Seconds of a sweep over thresholds, and of a call of `simulate` for each point."""
    grid = jaxsnn.Grid(
        scales=1.0, threshold=np.linspace(0.5, 2.0, points).tolist(), duration=steps * DT
    )
    labels = np.zeros(len(images), int)

    def sweep() -> Any:
        return jaxsnn.sweep(snn.network, images, labels, grid, engine="scan", progress=False)

    def one_by_one() -> None:
        for _ in range(points):
            run(snn, images, steps)

    return medians(interleaved({"sweep": sweep, "calls": one_by_one}, 3))


def main(quick: bool = False, output: Path = RESULTS / "on_gpu.json") -> None:
    """Check, measure, and write the results.

    Args:
        quick: a small form of everything, which a CPU does in seconds.
        output: the file for the results.
    """
    started, device = perf_counter(), jax.devices()[0]
    if device.platform == "cpu" and not quick:
        sys.exit("There is no accelerator here: --quick runs a small form on the CPU.")
    count, steps, batches, points = (10_000, 100, (1, 500, 10_000), 64)
    if quick:
        count, steps, batches, points = (8, 4, (2,), 2)
    images = np.asarray(jaxsnn.load_dataset("mnist")[1].images[:count])
    made = networks(images)
    results = new_results(images=count, steps=steps, batches=batches, points=points)
    checks = {}
    for name, (snn, given) in made.items():
        checks[f"{name} in 8 bits: spikes that differ from the host's"] = differing(
            snn, given, steps
        )
        results["differing"] = checks
        save(results, output)
    results["products per second"] = products_per_second(256 if quick else SIZE)
    results["rows"] = []
    for row in throughput(made, batches, steps, results["products per second"]):
        results["rows"].append(row)
        save(results, output)
    snn, given = made["FullyConnected"]
    results["sweep (s)"] = swept(snn, given[:500], points, steps)
    results["machine"]["seconds"] = round(perf_counter() - started, 1)
    save(results, output)
    print(pd.DataFrame(results["rows"]).to_markdown(index=False, floatfmt=".3g"))
    print(f"sweep of {points} points: {results['sweep (s)']}")
    for check, number in checks.items():
        print(f"{'pass' if number == 0 else 'FAIL'}: {check}: {number}")
    sys.exit(any(checks.values()))


if __name__ == "__main__":
    tyro.cli(main)
