"""The peers of jaxsnn, and whether their spikes are the same.

Exits with 1 if spikes differ that must not. Which of them runs faster is the question of
throughput.py, which takes the peers from here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import torch
import tyro
from flax import linen, nnx
from jax import lax
from spikingjelly.activation_based import encoding, functional, layer, neuron
from torch import Tensor, nn

import jaxsnn
from jaxsnn.paper.reproduce import machine

NETWORKS = {"FullyConnected": jaxsnn.networks.FullyConnected, "ConvNet": jaxsnn.networks.ConvNet}
RESETS = {"to zero": jaxsnn.reset_to_zero, "by subtraction": jaxsnn.reset_by_subtraction}
DT = 1e-3
GRID = 64  # weights of the agreement are multiples of 1/GRID
IMAGE_STEPS_AT_ONCE = 5000  # of peers that take many steps in a call: memory grows with them
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
    snn: jaxsnn.SpikingNetwork,
    node: Callable[[float], nn.Module],
    *,
    kit: ModuleType = nn,
    over_time: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> list[nn.Module]:
    """The same network in PyTorch, channels first, with `kit.Conv2d` etc. and neurons by `node`.

    `over_time` lets a module that knows no time take it; a linear layer needs no such help.
    """
    modules: list[nn.Module] = []
    shape = snn.network.input_shape
    for part, out, threshold in zip(snn.network.layers, snn.network.shapes, snn.thresholds):
        if not part.weighted:
            modules.append(over_time(kit.AvgPool2d(2)))
        elif part.weights[0].ndim == 4:
            kernel = np.asarray(part.weights[0]).transpose(3, 2, 0, 1)
            conv = kit.Conv2d(*kernel.shape[1::-1], kernel.shape[2:], bias=False)
            conv.weight.data = torch.tensor(kernel)
            modules.append(over_time(conv))
        else:
            kernel = np.asarray(part.weights[0])
            if len(shape) == 3:  # rows of the kernel from [H, W, C] to [C, H, W]
                modules.append(over_time(kit.Flatten()))
                kernel = kernel.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
            linear = kit.Linear(*kernel.shape, bias=False)
            linear.weight.data = torch.tensor(kernel.T.copy())
            modules.append(linear)
        modules.append(node(float(threshold)))
        shape = out
    return modules


def channels_first(array: np.ndarray) -> np.ndarray:
    """[..., H, W, C] to [..., C, H, W]; other arrays as they are."""
    return np.moveaxis(array, -1, -3) if array.ndim > 3 else array


def channels_last(array: np.ndarray) -> np.ndarray:
    """[..., C, H, W] to [..., H, W, C]; other arrays as they are."""
    return np.moveaxis(array, -3, -1) if array.ndim > 3 else array


# -- Peers in PyTorch ------------------------------------------------------------------------------
#
# Libraries that are wanted for one peer only are imported where it is built.


class Peer(Protocol):
    """A network of a peer, and how to run it; images and spikes have our shapes, channels last.

    Attributes:
        multi_step: whether it may take many steps in a call.
    """

    multi_step: bool

    def spikes(self, inputs: np.ndarray) -> list[np.ndarray]:
        """The spikes of every layer for input spikes `[T, B, ...]`."""
        ...

    def pixels(self, images: np.ndarray) -> Any:
        """The images for `classify`."""
        ...

    def classify(self, pixels: Any, steps: int, at_once: int | None = None) -> Any:
        """The timed job: draw input, simulate, read the class after every step `[T, B]`.

        A multi-step peer takes `at_once` steps in a call.
        """
        ...


@dataclass
class TorchPeer:
    """A peer in PyTorch.

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

    def run(self, x: Tensor) -> Tensor:
        """The spikes of the last layer."""
        return self.net(x)

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """The spikes of each layer."""
        for module in self.net:
            x = module(x)
            if isinstance(module, self.node):
                yield x

    def spikes(self, inputs: np.ndarray) -> list[np.ndarray]:
        self.reset(self.net)
        x = torch.tensor(channels_first(inputs))
        if self.multi_step:
            layers = list(self.layers(x))
        else:
            layers = [torch.stack(spikes) for spikes in zip(*(list(self.layers(y)) for y in x))]
        return [channels_last(spikes.numpy()) for spikes in layers]

    def pixels(self, images: np.ndarray) -> Tensor:
        return torch.tensor(channels_first(images))

    def classify(self, pixels: Tensor, steps: int, at_once: int | None = None) -> Tensor:
        self.reset(self.net)
        encode = encoding.PoissonEncoder()
        if not self.multi_step:
            counts, predictions = torch.zeros(()), []
            for _ in range(steps):
                counts = counts + self.run(encode(pixels))
                predictions.append(counts.argmax(1))
            return torch.stack(predictions)
        at_once = at_once or max(1, min(steps, IMAGE_STEPS_AT_ONCE // len(pixels)))
        outputs = [
            self.run(encode(pixels.expand(min(at_once, steps - start), *pixels.shape)))
            for start in range(0, steps, at_once)
        ]
        return torch.cat(outputs).cumsum(0).argmax(2)


def spikingjelly_peer(
    snn: jaxsnn.SpikingNetwork, reset: str, *, multi_step: bool = False
) -> TorchPeer:
    """SpikingJelly's IFNode, one step in a call or many."""
    v_reset = 0.0 if reset == "to zero" else None
    modules = torch_layers(
        snn, lambda threshold: neuron.IFNode(v_threshold=threshold, v_reset=v_reset), kit=layer
    )
    net = nn.Sequential(*modules)
    functional.set_step_mode(net, "m" if multi_step else "s")
    return TorchPeer(net, neuron.IFNode, functional.reset_net, multi_step)


def snntorch_peer(
    snn: jaxsnn.SpikingNetwork, reset: str, *, inclusive: bool = True, reset_delay: bool = True
) -> TorchPeer:
    """SnnTorch's Leaky without leak; `inclusive` makes V = threshold a spike, as it is for us.

    snnTorch resets a potential at the beginning of the next step (`reset_delay`), which without a
    leak gives the spikes of an immediate reset.
    """
    import snntorch

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

    return TorchPeer(nn.Sequential(*torch_layers(snn, node)), snntorch.Leaky, forget)


class NorsePeer(TorchPeer):
    """Norse, whose networks are given their state and return it."""

    def run(self, x: Tensor) -> Tensor:
        output, self.net.state = self.net(x, self.net.state)
        return output

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        self.net.return_hidden = True
        hidden = self.run(x)
        self.net.return_hidden = False
        return (y for y, module in zip(hidden, self.net) if isinstance(module, self.node))


def norse_peer(snn: jaxsnn.SpikingNetwork, reset: str, *, multi_step: bool = False) -> TorchPeer:
    """Norse's IAFCell, or its IAF, which takes many steps in a call; both reset to zero only.

    Norse fires at V > threshold, which is V >= threshold for the next smaller threshold.
    """
    import norse.torch as norse

    assert reset == "to zero"
    neurons = norse.IAF if multi_step else norse.IAFCell

    def node(threshold: float) -> nn.Module:
        below = torch.tensor(np.nextafter(np.float32(threshold), np.float32(0)))
        return neurons(norse.IAFParameters(below, torch.tensor(0.0), method="heaviside"))

    def lift(module: nn.Module) -> nn.Module:
        # Norse lifts a module by a loop over time, of which a reshape has no need.
        return nn.Flatten(2) if isinstance(module, nn.Flatten) else norse.Lift(module)

    def forget(net: nn.Module) -> None:
        net.state = None

    modules = torch_layers(snn, node, **({"over_time": lift} if multi_step else {}))
    return NorsePeer(norse.SequentialState(*modules), neurons, forget, multi_step)


class SinabsPeer(TorchPeer):
    """Sinabs, where the batch comes before time."""

    def run(self, x: Tensor) -> Tensor:
        return self.net(x.transpose(0, 1)).transpose(0, 1)

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        return (spikes.transpose(0, 1) for spikes in super().layers(x.transpose(0, 1)))


def sinabs_peer(snn: jaxsnn.SpikingNetwork, reset: str) -> TorchPeer:
    """Sinabs's IAF with one spike in a step at most; it takes many steps in a call."""
    import sinabs
    from sinabs.activation import MembraneReset, MembraneSubtract, SingleSpike
    from sinabs.layers import IAF, Repeat

    resets = {"to zero": MembraneReset(), "by subtraction": MembraneSubtract()}

    def node(threshold: float) -> nn.Module:
        return IAF(torch.tensor(threshold), spike_fn=SingleSpike, reset_fn=resets[reset])

    net = nn.Sequential(*torch_layers(snn, node, over_time=Repeat))
    return SinabsPeer(net, IAF, sinabs.reset_states, True)


# -- Peers in JAX ----------------------------------------------------------------------------------


@dataclass
class JaxPeer:
    """A peer in JAX; a job is one compiled program.

    Attributes:
        params: the weights.
        at_rest: the state of the neurons for so many images.
        run: (params, state, input spikes `[T, B, ...]`) ↦ the state, and output spikes `[T, B, C]`.
        layers: input spikes ↦ the spikes of each layer.
        multi_step: it takes many steps in a call.
    """

    params: Any
    at_rest: Callable[[int], Any]
    run: Callable[[Any, Any, jax.Array], tuple[Any, jax.Array]]
    layers: Callable[[jax.Array], list[jax.Array]]
    multi_step: bool = True

    def __post_init__(self) -> None:
        self._job = jax.jit(self._classify, static_argnames=("steps", "at_once"))

    def spikes(self, inputs: np.ndarray) -> list[np.ndarray]:
        return list(map(np.asarray, self.layers(jnp.asarray(inputs))))

    def pixels(self, images: np.ndarray) -> jax.Array:
        return jnp.asarray(images)

    def classify(self, pixels: jax.Array, steps: int, at_once: int | None = None) -> jax.Array:
        arguments = (self.params, pixels, jax.random.key(0))
        return jax.block_until_ready(self._job(*arguments, steps=steps, at_once=at_once or steps))

    def _classify(
        self, params: Any, pixels: jax.Array, key: jax.Array, *, steps: int, at_once: int
    ) -> jax.Array:
        assert steps % at_once == 0

        def chunk(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            inputs = jax.random.bernoulli(key, pixels, (at_once, *pixels.shape))
            return self.run(params, state, inputs.astype(pixels.dtype))

        keys = jax.random.split(key, steps // at_once)
        # A loop of one pass would only be in XLA's way.
        _, outputs = lax.scan(chunk, self.at_rest(len(pixels)), keys, unroll=len(keys) == 1)
        return outputs.reshape(steps, len(pixels), -1).cumsum(0).argmax(2)


def flax_layers(
    snn: jaxsnn.SpikingNetwork,
    node: Callable[[float, tuple[int, ...]], Any],
    *,
    conv: Callable[[jax.Array], Any],
    linear: Callable[[jax.Array], Any],
) -> list[Any]:
    """The same network in layers of Flax, made from kernels, with neurons by `node`."""
    modules: list[Any] = []
    shape = snn.network.input_shape
    for part, out, threshold in zip(snn.network.layers, snn.network.shapes, snn.thresholds):
        if not part.weighted:
            modules.append(lambda x: linen.avg_pool(x, (2, 2), (2, 2)))
        elif part.weights[0].ndim == 4:
            modules.append(conv(part.weights[0]))
        else:
            if len(shape) == 3:
                modules.append(lambda x: x.reshape(*x.shape[:-3], -1))
            modules.append(linear(part.weights[0]))
        modules.append(node(float(threshold), tuple(out)))
        shape = out
    return modules


def spyx_peer(snn: jaxsnn.SpikingNetwork, reset: str) -> JaxPeer:
    """Spyx's Sequential and its scan, with a neuron of ours, which is a class of two methods there.

    Its own IF resets by subtraction only, and fires before it integrates: each layer spikes one
    step late.
    """
    import spyx

    class IF(spyx.nn.IF):
        def __call__(self, x: jax.Array, potential: jax.Array) -> tuple[jax.Array, jax.Array]:
            potential = potential + x
            spikes = self.spike(potential - self.threshold)
            return spikes, RESETS[reset](potential, spikes, self.threshold)

    fire = spyx.axn.custom(fwd=lambda x: (x >= 0).astype(x.dtype))  # its own does at V > threshold

    def with_kernel(module: Any, kernel: jax.Array) -> Any:
        module.kernel[...] = kernel
        return module

    def conv(kernel: jax.Array) -> Any:
        size, padding = kernel.shape[:2], "VALID"
        module = nnx.Conv(
            *kernel.shape[2:], size, padding=padding, use_bias=False, rngs=nnx.Rngs(0)
        )
        return with_kernel(module, kernel)

    def linear(kernel: jax.Array) -> Any:
        return with_kernel(nnx.Linear(*kernel.shape, use_bias=False, rngs=nnx.Rngs(0)), kernel)

    def node(threshold: float, shape: tuple[int, ...]) -> Any:
        return IF(shape, threshold=threshold, activation=fire)

    model = spyx.nn.Sequential(*flax_layers(snn, node, conv=conv, linear=linear))
    graph, params = nnx.split(model)

    def run(params: Any, state: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        outputs, state = spyx.nn.run(nnx.merge(graph, params), inputs, state)
        return state, outputs

    def layers(x: jax.Array) -> list[jax.Array]:
        spikes = []
        for module in model.layers:
            if isinstance(module, IF):
                x, _ = spyx.nn.run(module, x)
                spikes.append(x)
            else:
                x = jax.vmap(module)(x)
        return spikes

    return JaxPeer(params, model.initial_state, run, layers)


def sparx_peer(snn: jaxsnn.SpikingNetwork, reset: str) -> JaxPeer:
    """Sparx's IF after layers of Flax that take all steps of a call as one batch."""
    # When it is imported it sets a flag of XLA, which must not change how others are compiled: once
    # JAX is at work it is too late for that, of which a warning tells.
    jax.devices()
    import sparx

    rule = {"to zero": "zero", "by subtraction": "subtract"}[reset]

    def conv(kernel: jax.Array) -> linen.Module:
        return linen.Conv(kernel.shape[3], kernel.shape[:2], padding="VALID", use_bias=False)

    def linear(kernel: jax.Array) -> linen.Module:
        return linen.Dense(kernel.shape[1], use_bias=False)

    def node(threshold: float, shape: tuple[int, ...]) -> linen.Module:
        return sparx.nn.IF(threshold=threshold, reset=rule)

    modules = flax_layers(snn, node, conv=conv, linear=linear)
    net = linen.Sequential(modules)

    def names(kind: Any) -> list[str]:
        return [f"layers_{i}" for i, module in enumerate(modules) if isinstance(module, kind)]

    kernels = [{"kernel": part.weights[0]} for part in snn.network.layers if part.weighted]
    params = dict(zip(names((linen.Conv, linen.Dense)), kernels, strict=True))

    def run(params: Any, state: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        outputs, state = net.apply({"params": params, **state}, inputs, mutable=["state"])
        return state, outputs

    def at_rest(images: int) -> Any:
        inputs = jnp.zeros((1, images, *snn.network.input_shape))
        state, _ = jax.eval_shape(run, params, {}, inputs)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)

    def layers(inputs: jax.Array) -> list[jax.Array]:
        _, kept = net.apply({"params": params}, inputs, capture_intermediates=True)
        return [kept["intermediates"][name]["__call__"][0] for name in names(sparx.nn.IF)]

    return JaxPeer(params, at_rest, run, layers)


# -- All of them -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A peer in the list.

    Attributes:
        build: (network, reset) ↦ the peer.
        package: its name on PyPI.
        note: what runs, and what it took to make it the same job.
        resets: those that it has.
        module: what is imported of it, where that is not the name of the package.
    """

    build: Callable[[jaxsnn.SpikingNetwork, str], Peer]
    package: str
    note: str
    resets: tuple[str, ...] = tuple(RESETS)
    module: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether it can be imported."""
        return find_spec(self.module or self.package) is not None


PEERS = {
    "SpikingJelly": Entry(spikingjelly_peer, "spikingjelly", "`IFNode`"),
    "SpikingJelly, multi-step": Entry(
        partial(spikingjelly_peer, multi_step=True), "spikingjelly", '`IFNode(step_mode="m")`'
    ),
    "snnTorch": Entry(
        snntorch_peer, "snntorch", "`Leaky(beta=1)`; with a spike function of ours for V ≥ θ"
    ),
    "Norse": Entry(
        norse_peer, "norse", "`IAFCell`; fires at V > θ, so θ is one float32 less", ("to zero",)
    ),
    "Norse, multi-step": Entry(
        partial(norse_peer, multi_step=True), "norse", "`IAF` and `Lift`; θ as before", ("to zero",)
    ),
    "sinabs": Entry(sinabs_peer, "sinabs", "`IAF` with `SingleSpike` and `MembraneReset`"),
    "spyx": Entry(spyx_peer, "spyx", "`run`; with a neuron of ours, since its own fire late"),
    "sparx": Entry(sparx_peer, "sparxml", "`IF` after Flax layers over all steps", module="sparx"),
}


def chosen(packages: tuple[str, ...] = ()) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """The peers of these packages, or all: those that are installed, and those that are not."""
    wanted = {name: e for name, e in PEERS.items() if not packages or e.package in packages}
    present = {name: entry for name, entry in wanted.items() if entry.is_installed}
    return present, {name: entry for name, entry in wanted.items() if name not in present}


def versions() -> dict[str, str]:
    """The versions of jaxlib, torch, Numba, which one of our engines needs, and the peers."""
    packages = {entry.package for entry in PEERS.values() if entry.is_installed}
    packages |= {name for name in ("numba",) if find_spec(name)}
    return {name: version(name) for name in ("jaxlib", "torch", *sorted(packages))}


def timed(job: Callable[[], Any], number: int) -> float:
    """Seconds that one call takes, as the mean over so many."""
    start = time.perf_counter()
    for _ in range(number):
        job()
    return (time.perf_counter() - start) / number


# -- Agreement -------------------------------------------------------------------------------------


def agreement(
    snn: jaxsnn.SpikingNetwork,
    entries: dict[str, Entry],
    images: np.ndarray,
    steps: int,
    reset: str,
) -> list[dict]:
    """Compare all spikes of all layers, step by step, for the same input spikes."""
    run = jaxsnn.simulate(
        snn,
        images,
        key=0,
        duration=steps * DT,
        reset=RESETS[reset],
        record=lambda step: (step.inputs, step.spikes),
    )
    inputs, *ours = map(np.asarray, jax.tree.leaves(run.records))
    able = {name: entry for name, entry in entries.items() if reset in entry.resets}
    peers: dict[str, Peer] = {name: entry.build(snn, reset) for name, entry in able.items()}
    # These have another neuron; they are here to show it.
    peers["snnTorch as it comes"] = snntorch_peer(snn, reset, inclusive=False)
    peers["snnTorch, no delay"] = snntorch_peer(snn, reset, reset_delay=False)
    spikes = int(sum(a.sum(dtype=np.float64) for a in ours))
    rows = []
    for name, peer in peers.items():
        theirs = peer.spikes(inputs)
        differing = sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
        row = {"reset": reset, "peer": name, "must agree": name in able}
        rows.append(row | {"our spikes": spikes, "differing": differing})
    return rows


# -- The command line ------------------------------------------------------------------------------


def main(
    steps: int = 100,
    quick: bool = False,
    weights: Path | None = None,
    output: Path = Path(__file__).parent / "results" / "peers.json",
) -> None:
    """Run jaxsnn beside its peers, and compare spike for spike.

    Args:
        steps: time steps of 1 ms.
        quick: a short run that only shows that everything works.
        weights: a folder with FullyConnected.npz and ConvNet.npz, each written by
            `numpy.savez(file, *jax.tree.leaves(network))`; by default He-random weights.
        output: the file for the results.
    """
    if quick:
        steps = 20
    images = sample_images(500)
    entries, absent = chosen()
    for name, entry in absent.items():
        print(f"{name} is left out: {entry.package} is not installed.", file=sys.stderr)
    results: dict[str, Any] = {
        "machine": machine() | versions(),
        "settings": {"steps": steps, "trained weights": weights is not None},
        "agreement": [],
    }
    with torch.no_grad():
        for name in NETWORKS:
            snn = on_grid(spiking_network(name, images, weights))
            for reset in RESETS:
                rows = agreement(snn, entries, images[:10], steps, reset)
                results["agreement"] += [{"network": name, **row} for row in rows]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(pd.DataFrame(results["agreement"]).to_markdown(index=False))
    if any(row["differing"] > 0 for row in results["agreement"] if row["must agree"]):
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
