"""Everything that needs an accelerator, in one command: is it exact, and how fast is it?

Writes results/on_gpu.json after each part, prints a line for each check, and ends with 1 if one
fails. Without an accelerator, `--quick` runs the same in a small form.

    exactness    in fixed point the accelerator gives the very spikes of the host, for all images
    throughput   image-steps per second of three networks, float32 and 8 bits, beside the rate at
                 which the device multiplies matrices, and beside SpikingJelly where it is installed
    chunks       the same for a few numbers of steps in a product, which `Scan` chooses by itself
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
PRODUCTS = {"float32": jnp.float32, "8 bits": jnp.bfloat16}  # what the scan multiplies there
CHUNKS = (1, 10, 25)
AT_ONCE = 100_000  # image-steps in a call of SpikingJelly
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
        found[name] = jaxsnn.normalize_weights(network, scales), images
    small = images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    found["ResNet"] = jaxsnn.convert(residual_network(), small[:200], progress=False), small
    return found


def residual_network() -> nnx.Module:
    """The residual network of `zoo.py` with random weights, to be evaluated."""
    model = zoo.NETWORKS["ResNet"](rngs=nnx.Rngs(0))
    model.eval()
    return model


def run(snn: Any, images: Any, steps: int, engine: Any = "scan") -> jaxsnn.Simulation:
    """A run of the scan, or of another engine, finished."""
    found = jaxsnn.simulate(
        snn, images, key=0, duration=steps * DT, dt=DT, engine=engine, progress=False
    )
    return jax.block_until_ready(found)


def differing(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int) -> int:
    """In how many numbers device and host differ: spike counts, classes, scores, potentials.

    The device runs the scan, the host the events, which share no arithmetic.
    """
    fixed = jaxsnn.quantize(snn, bits=8)
    there, here = run(fixed, images, steps), run(fixed, images, steps, "events")
    pairs = [*zip(there.spike_counts, here.spike_counts), (there.predictions, here.predictions)]
    pairs += [(there.scores, here.scores)]
    pairs += [(a.potential, b.potential) for a, b in zip(there.state.neurons, here.state.neurons)]
    return sum(int(np.sum(np.asarray(a) != np.asarray(b))) for a, b in pairs)


def products_per_second(size: int, dtype: Any) -> float:
    """Multiply-adds per second of a product of matrices of a type, added in float32."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(
        partial(
            jnp.matmul,
            precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
            preferred_element_type=jnp.float32,
        )
    )
    (seconds,) = medians(interleaved({"": lambda: multiply(matrix, matrix)}, 5)).values()
    return size**3 / seconds


def jobs_of(
    snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int, engine: Any = "scan"
) -> dict[str, Callable[[], Any]]:
    """The same batch in floating and in fixed point, on the device."""
    on_device = jax.device_put(images)
    arithmetics = {"float32": snn, "8 bits": jaxsnn.quantize(snn, bits=8)}
    return {
        name: partial(run, made, on_device, steps, engine) for name, made in arithmetics.items()
    }


def peer_jobs(name: str, snn: Any, images: np.ndarray, steps: int) -> dict[str, Callable[[], Any]]:
    """SpikingJelly on the same card, if it is installed: each of its ways to run the network.

    It runs the paper's networks with Poisson input one step or many steps in a call, and the
    residual one as its converter makes it, with a constant current and one step in a call.
    """
    if not find_spec("spikingjelly"):
        return {}
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "ResNet":
        return {"SpikingJelly": _converted_job(images, steps, device)}
    from peers import spikingjelly_peer

    def job(multi_step: bool) -> Callable[[], Any]:
        peer = spikingjelly_peer(snn, "to zero", multi_step=multi_step)
        peer.net.to(device)
        pixels, at_once = peer.pixels(images).to(device), max(1, AT_ONCE // len(images))

        def classify() -> Any:
            with torch.no_grad():
                return peer.classify(pixels, steps, min(at_once, steps)).cpu().numpy()

        return classify

    return {"SpikingJelly": job(False), "SpikingJelly, multi-step": job(True)}


def _converted_job(images: np.ndarray, steps: int, device: str) -> Callable[[], Any]:
    import torch
    from architectures import PER_CHANNEL, by_spikingjelly, recipes
    from spikingjelly.activation_based import functional
    from twins import as_torch, twin

    module = twin("ResNet", residual_network(), images[:50])
    snn = by_spikingjelly(recipes()[PER_CHANNEL], module, as_torch(images[:200])).to(device)
    pixels = as_torch(images).to(device)

    def job() -> Any:
        functional.reset_net(snn)
        with torch.no_grad():
            return sum(snn(pixels) for _ in range(steps)).cpu().numpy()

    return job


def throughput(made: dict[str, Network], batches: tuple[int, ...], steps: int, most: Any) -> Any:
    """A row for each network and batch: image-steps per second, and the share of the products."""
    for name, (snn, images) in made.items():
        operations = jaxsnn.metrics.dense_operations(snn.network)
        for batch in batches:
            some = np.resize(images, (batch, *images.shape[1:]))
            jobs = jobs_of(snn, some, steps) | peer_jobs(name, snn, some, steps)
            seconds = medians(interleaved(jobs, 3))
            rates = {job: batch * steps / time for job, time in seconds.items()}
            shares = {f"{kind}, share": rates[kind] * operations / most[kind] for kind in most}
            yield {"network": name, "batch": batch, **rates, **shares}


def by_chunk(made: dict[str, Network], batch: int, steps: int) -> Any:
    """A row for each network and chunk: image-steps per second."""
    for name in MODELS:
        snn, images = made[name]
        jobs = {
            (chunk, kind): job
            for chunk in CHUNKS
            for kind, job in jobs_of(
                snn, images[:batch], steps, jaxsnn.engines.Scan(chunk=chunk)
            ).items()
        }
        seconds = medians(interleaved(jobs, 3))
        for chunk in CHUNKS:
            rates = {kind: batch * steps / seconds[chunk, kind] for kind in PRODUCTS}
            yield {"network": name, "batch": batch, "chunk": chunk, **rates}


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
    most = {kind: products_per_second(256 if quick else SIZE, PRODUCTS[kind]) for kind in PRODUCTS}
    results["products per second"], results["rows"], results["chunks"] = most, [], []
    for row in throughput(made, batches, steps, most):
        results["rows"].append(row)
        save(results, output)
    snn, given = made["FullyConnected"]
    results["sweep (s)"] = swept(snn, given[:500], points, steps)
    save(results, output)
    for row in by_chunk(made, batches[len(batches) // 2], steps):
        results["chunks"].append(row)
        save(results, output)
    results["machine"]["seconds"] = round(perf_counter() - started, 1)
    save(results, output)
    for table in ("rows", "chunks"):
        print(pd.DataFrame(results[table]).to_markdown(index=False, floatfmt=".3g"), end="\n\n")
    print(f"sweep of {points} points: {results['sweep (s)']}")
    for check, number in checks.items():
        print(f"{'pass' if number == 0 else 'FAIL'}: {check}: {number}")
    sys.exit(any(checks.values()))


if __name__ == "__main__":
    tyro.cli(main)
