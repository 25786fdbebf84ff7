"""jaxsnn beside SpikingJelly and snnTorch: are the spikes the same, and which runs faster?

Both questions are put in one run on one machine. Exits with 1 if spikes differ that must not, or if
the mean spike counts show that the engines do not run the same job.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import snntorch
import torch
import tyro
from flax import nnx
from spikingjelly.activation_based import encoding, functional, layer, neuron
from torch import Tensor, nn

import jaxsnn
from jaxsnn.reproduce import machine

NETWORKS = {"FullyConnected": jaxsnn.networks.FullyConnected, "ConvNet": jaxsnn.networks.ConvNet}
RESETS = {"to zero": jaxsnn.reset_to_zero, "by subtraction": jaxsnn.reset_by_subtraction}
DT = 1e-3
GRID = 64  # weights of the agreement are multiples of 1/GRID
IMAGE_STEPS_AT_ONCE = 5000  # of SpikingJelly's multi-step mode, whose memory grows with them
SHORTEST = 0.5  # seconds of one measurement: shorter jobs are repeated within it
LARGEST_Z = 5.0  # standard errors by which mean spike counts may differ


# -- The same network on both sides ----------------------------------------------------------------


def sample_images(count: int) -> np.ndarray:
    """Images of MNIST's test set or, where it cannot be had, noise with as many bright pixels."""
    try:
        return jaxsnn.load_dataset("mnist")[1].images[:count]
    except jaxsnn.DatasetError:
        print("MNIST cannot be had: random images instead.", file=sys.stderr)
        pixels = np.random.default_rng(0).uniform(-4, 1, (count, 28, 28, 1))
        return np.maximum(pixels, 0).astype(np.float32)


def relu_network(name: str, images: np.ndarray, weights: Path | None) -> jaxsnn.Network:
    """The paper's network with He-random weights, or with given ones."""
    model = NETWORKS[name](rngs=nnx.Rngs(0))
    model.eval()
    network = jaxsnn.read_network(model, images[:1])
    if weights is None:
        return network
    arrays = np.load(weights / f"{name}.npz").values()
    return jax.tree.unflatten(jax.tree.structure(network), map(jnp.asarray, arrays))


def spiking_network(name: str, images: np.ndarray, weights: Path | None) -> jaxsnn.SpikingNetwork:
    """The paper's network, normalised on the images."""
    network = relu_network(name, images, weights)
    return jaxsnn.normalize_weights(network, jaxsnn.data_based_scales(network, images))


def on_grid(snn: jaxsnn.SpikingNetwork) -> jaxsnn.SpikingNetwork:
    """The network with weights rounded to 1/GRID, so that no sum of them is rounded in float32."""
    return jax.tree.map(lambda x: jnp.round(x * GRID) / GRID, snn)


def torch_layers(
    snn: jaxsnn.SpikingNetwork, kit: Any, node: Callable[[float], nn.Module]
) -> nn.Sequential:
    """The same network in PyTorch, channels first, with `kit.Conv2d` etc. and neurons by `node`."""
    modules: list[nn.Module] = []
    shape = snn.network.input_shape
    for part, out, threshold in zip(snn.network.layers, snn.network.shapes, snn.thresholds):
        if not part.weighted:
            modules.append(kit.AvgPool2d(2))
        elif part.weights[0].ndim == 4:
            kernel = np.asarray(part.weights[0]).transpose(3, 2, 0, 1)
            modules.append(kit.Conv2d(*kernel.shape[1::-1], kernel.shape[2:], bias=False))
            modules[-1].weight.data = torch.tensor(kernel)
        else:
            kernel = np.asarray(part.weights[0])
            if len(shape) == 3:  # rows of the kernel from [H, W, C] to [C, H, W]
                modules.append(kit.Flatten())
                kernel = kernel.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
            modules.append(kit.Linear(*kernel.shape, bias=False))
            modules[-1].weight.data = torch.tensor(kernel.T.copy())
        modules.append(node(float(threshold)))
        shape = out
    return nn.Sequential(*modules)


def channels_first(array: np.ndarray) -> np.ndarray:
    """[..., H, W, C] to [..., C, H, W]; other arrays as they are."""
    return np.moveaxis(array, -1, -3) if array.ndim > 3 else array


# -- The peers -------------------------------------------------------------------------------------


@dataclass
class Peer:
    """A network of a peer, and how to run it.

    Attributes:
        net: linear operations and neurons in turn.
        node: the class of the neurons.
        reset: sets all potentials to zero.
        multi_step: whether a call takes many steps `[T, B, ...]` and not one `[B, ...]`.
    """

    net: nn.Sequential
    node: type[nn.Module]
    reset: Callable[[nn.Module], Any]
    multi_step: bool = False

    def spikes(self, inputs: Tensor) -> list[np.ndarray]:
        """The spikes of every layer for input spikes `[T, B, ...]`."""
        self.reset(self.net)
        if self.multi_step:
            return [spikes.numpy() for spikes in self._layers(inputs)]
        steps = [list(self._layers(x)) for x in inputs]
        return [torch.stack(spikes).numpy() for spikes in zip(*steps)]

    def _layers(self, x: Tensor) -> Iterator[Tensor]:
        for module in self.net:
            x = module(x)
            if isinstance(module, self.node):
                yield x

    def classify(self, pixels: Tensor, steps: int) -> Tensor:
        """The timed job: draw input, simulate, read the class after every step `[T, B]`."""
        self.reset(self.net)
        encode = encoding.PoissonEncoder()
        if not self.multi_step:
            counts, predictions = torch.zeros(()), []
            for _ in range(steps):
                counts = counts + self.net(encode(pixels))
                predictions.append(counts.argmax(1))
            return torch.stack(predictions)
        at_once = max(1, min(steps, IMAGE_STEPS_AT_ONCE // len(pixels)))
        outputs = [
            self.net(encode(pixels.expand(min(at_once, steps - start), *pixels.shape)))
            for start in range(0, steps, at_once)
        ]
        return torch.cat(outputs).cumsum(0).argmax(2)


def spikingjelly_peer(snn: jaxsnn.SpikingNetwork, reset: str, *, multi_step: bool = False) -> Peer:
    """SpikingJelly's IFNode, one step in a call or many."""
    v_reset = 0.0 if reset == "to zero" else None
    net = torch_layers(snn, layer, lambda v: neuron.IFNode(v_threshold=v, v_reset=v_reset))
    functional.set_step_mode(net, "m" if multi_step else "s")
    return Peer(net, neuron.IFNode, functional.reset_net, multi_step)


def snntorch_peer(
    snn: jaxsnn.SpikingNetwork, reset: str, *, inclusive: bool = True, reset_delay: bool = True
) -> Peer:
    """SnnTorch's Leaky without leak; `inclusive` makes V = threshold a spike, as it is for us.

    snnTorch resets a potential at the beginning of the next step (`reset_delay`), which without a
    leak gives the spikes of an immediate reset.
    """

    def node(threshold: float) -> nn.Module:
        return snntorch.Leaky(
            beta=1.0,
            threshold=threshold,
            init_hidden=True,
            reset_mechanism={"to zero": "zero", "by subtraction": "subtract"}[reset],
            reset_delay=reset_delay,
            spike_grad=(lambda x: (x >= 0).to(x)) if inclusive else None,
        )

    def forget(net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, snntorch.Leaky):
                module.reset_mem()

    return Peer(torch_layers(snn, nn, node), snntorch.Leaky, forget)


# -- Agreement -------------------------------------------------------------------------------------


def agreement(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int, reset: str) -> list[dict]:
    """Compare all spikes of all layers, step by step, for the same input spikes."""
    run = jaxsnn.simulate(
        snn,
        images,
        key=0,
        duration=steps * DT,
        reset=RESETS[reset],
        record=lambda step: (step.inputs, step.spikes),
    )
    inputs, *ours = map(channels_first, map(np.asarray, jax.tree.leaves(run.records)))
    rows = []
    peers = {
        "SpikingJelly": spikingjelly_peer(snn, reset),
        "SpikingJelly, multi-step": spikingjelly_peer(snn, reset, multi_step=True),
        "snnTorch, spike at V >= θ": snntorch_peer(snn, reset),
        "snnTorch as it comes": snntorch_peer(snn, reset, inclusive=False),
        "snnTorch, V >= θ, no delay": snntorch_peer(snn, reset, reset_delay=False),
    }
    for index, (name, peer) in enumerate(peers.items()):
        theirs = peer.spikes(torch.tensor(inputs))
        differing = sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
        spikes = int(sum(a.sum(dtype=np.float64) for a in ours))
        # The last two have another neuron; they are here to show it.
        row = {"reset": reset, "peer": name, "must agree": index < 3}
        rows.append(row | {"our spikes": spikes, "differing": differing})
    return rows


# -- Throughput ------------------------------------------------------------------------------------


def engines(snn: jaxsnn.SpikingNetwork) -> dict[str, Peer]:
    """The peers in the race, all with reset to zero."""
    return {
        "SpikingJelly": spikingjelly_peer(snn, "to zero"),
        "SpikingJelly, multi-step": spikingjelly_peer(snn, "to zero", multi_step=True),
        "snnTorch": snntorch_peer(snn, "to zero"),
    }


def same_job(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int) -> dict[str, Any]:
    """Mean spikes per neuron and step of each layer, and the largest |z| of all differences.

    z is the mean over images of the difference in an image's spikes, ours minus the peer's, in its
    standard errors: both see the same images, with input spikes of their own.
    """
    run = jaxsnn.simulate(snn, images, key=1, duration=steps * DT)
    ours = [np.asarray(c).reshape(len(images), -1).mean(1) for c in run.spike_counts]
    pixels, encode = torch.tensor(channels_first(images)), encoding.PoissonEncoder()
    result: dict[str, Any] = {"jaxsnn": [float(c.mean() / steps) for c in ours]}
    largest = 0.0
    for name, peer in engines(snn).items():
        spikes = peer.spikes(encode(pixels.expand(steps, *pixels.shape)))
        theirs = [s.sum(0).reshape(len(images), -1).mean(1) for s in spikes]
        result[name] = [float(c.mean() / steps) for c in theirs]
        for a, b in zip(ours, theirs, strict=True):
            error = (a - b).std(ddof=1) / len(images) ** 0.5 + 1e-12
            largest = max(largest, float(abs((a - b).mean()) / error))
    return result | {"largest |z|": largest}


def timed(job: Callable[[], Any], number: int) -> float:
    """Seconds that one call takes, as the mean over so many."""
    start = time.perf_counter()
    for _ in range(number):
        job()
    return (time.perf_counter() - start) / number


def race(
    snn: jaxsnn.SpikingNetwork, images: np.ndarray, *, steps: int, repeats: int
) -> dict[str, list[float]]:
    """Image-steps per second of every engine: A B C D, A B C D, …; the first calls do not count."""
    ours, theirs = jnp.asarray(images), torch.tensor(channels_first(images))

    def simulate() -> None:
        jax.block_until_ready(
            jaxsnn.simulate(snn, ours, key=0, duration=steps * DT, progress=False)
        )

    jobs: dict[str, Callable[[], Any]] = {"jaxsnn": simulate}
    for name, peer in engines(snn).items():
        jobs[name] = lambda peer=peer: peer.classify(theirs, steps)
    numbers = {}
    for name, job in jobs.items():
        job()  # compiles, and allocates
        numbers[name] = max(1, ceil(SHORTEST / timed(job, 1)))
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            rates[name].append(len(images) * steps / timed(job, numbers[name]))
    return rates


def as_row(network: str, batch: int, rates: dict[str, list[float]]) -> dict[str, Any]:
    """A row of the table: medians, and how many times as fast as the fastest peer we are."""
    medians = {name: median(values) for name, values in rates.items()}
    fastest = max(value for name, value in medians.items() if name != "jaxsnn")
    shown = {name: f"{value:,.0f}" for name, value in medians.items()}
    ratio = f"{medians['jaxsnn'] / fastest:.2f}"
    return {"network": network, "batch": batch, **shown, "jaxsnn / fastest peer": ratio}


# -- The command line ------------------------------------------------------------------------------


def main(
    batches: tuple[int, ...] = (1, 20, 500),
    repeats: int = 5,
    steps: int = 100,
    quick: bool = False,
    weights: Path | None = None,
    output: Path = Path(__file__).parent / "results" / "peers.json",
) -> None:
    """Run jaxsnn beside its peers: agreement spike for spike, then image-steps per second.

    Args:
        batches: images simulated together, for each race.
        repeats: interleaved measurements of each engine; the table has their medians.
        steps: time steps of 1 ms.
        quick: a short run that only shows that everything works.
        weights: a folder with FullyConnected.npz and ConvNet.npz, each written by
            `numpy.savez(file, *jax.tree.leaves(network))`; by default He-random weights.
        output: the file for the results.
    """
    if quick:
        batches, repeats, steps = (1, 4), 1, 20
    images = sample_images(max(500, *batches))
    results: dict[str, Any] = {
        "machine": machine()
        | {"threads": torch.get_num_threads(), "load at the start": os.getloadavg()}
        | {name: version(name) for name in ("jaxlib", "torch", "spikingjelly", "snntorch")},
        "settings": {"steps": steps, "repeats": repeats, "trained weights": weights is not None},
        "agreement": [],
        "same job": {},
        "image-steps per second": [],
    }
    table = []
    with torch.no_grad():
        for name in NETWORKS:
            snn = spiking_network(name, images, weights)
            for reset in RESETS:
                rows = agreement(on_grid(snn), images[:10], steps, reset)
                results["agreement"] += [{"network": name, **row} for row in rows]
            results["same job"][name] = same_job(snn, images[: 20 if quick else 50], steps)
            for batch in batches:
                rates = race(snn, images[:batch], steps=steps, repeats=repeats)
                results["image-steps per second"].append({"network": name, "batch": batch, **rates})
                table.append(as_row(name, batch, rates))
    results["machine"]["load at the end"] = os.getloadavg()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(pd.DataFrame(results["agreement"]).to_markdown(index=False), end="\n\n")
    print(json.dumps(results["same job"], indent=1), end="\n\n")
    print(pd.DataFrame(table).to_markdown(index=False, disable_numparse=True))
    agree = all(row["differing"] == 0 for row in results["agreement"] if row["must agree"])
    same = all(job["largest |z|"] < LARGEST_Z for job in results["same job"].values())
    if not (agree and same):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
