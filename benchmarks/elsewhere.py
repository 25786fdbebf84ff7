"""Do other simulators compute the spikes of jaxsnn from the graphs of NIR that it writes?

Weights are multiples of 1/1024, so that float32 sums are exact, with the reset to zero; all see the
same input spikes. A simulator is what its own importer makes of the graph; what had to be changed,
in the graph or in the module, is said in `IMPORTERS`. Exits with 1 if spikes differ where none may.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import nir
import norse.torch
import numpy as np
import pandas as pd
import sinabs
import sinabs.activation
import torch
import tyro
import zoo
from common import DT, RESULTS, Trained, new_results, save
from spikingjelly.activation_based import nir_exchange

import jaxsnn

GRID = 1024  # weights are multiples of 1/GRID
AT_ONCE = 50  # images
PACKAGES = ("torch", "nir", "nirtorch", "spikingjelly", "norse", "sinabs")

# Spikes by the names of the nodes, and the outputs [T, B, classes].
Sent = tuple[dict[str, np.ndarray], np.ndarray]


# -- Networks --------------------------------------------------------------------------------------


def on_grid(snn: jaxsnn.SpikingNetwork) -> jaxsnn.SpikingNetwork:
    """The network with weights rounded to 1/GRID."""
    return jax.tree.map(lambda x: jnp.round(x * GRID) / GRID, snn)


def of_paper(name: Any, trained: Trained) -> tuple[jaxsnn.SpikingNetwork, jaxsnn.Dataset]:
    """One of the paper's networks with normalised weights, and the test images."""
    return jaxsnn.normalize_weights(*trained.scaled(name)), trained.data[1]


def resnet(trained: Trained) -> tuple[jaxsnn.SpikingNetwork, jaxsnn.Dataset]:
    """The ResNet of the zoo: sums of branches, biases, outputs that accumulate.

    With scale factors four times the largest activations of each channel, since the reset to zero
    loses what exceeds a threshold. Back from NIR, they are in its weights.
    """
    train, test = zoo.mnist()
    network = jaxsnn.read_network(zoo.trained("ResNet"), test.images[:1])
    scales = jaxsnn.percentile_scales(
        network, train.images[:1000], percentile=100.0, per="channel", progress=False
    )
    snn = jaxsnn.balance_thresholds(network, [4 * scale for scale in scales])
    return jaxsnn.from_nir(jaxsnn.to_nir(snn)), test


@dataclass(frozen=True)
class Subject:
    """A network, the test images for it, and for how many steps of 1 ms it is simulated."""

    make: Callable[[Trained], tuple[jaxsnn.SpikingNetwork, jaxsnn.Dataset]]
    steps: int


NETWORKS = {
    "FullyConnected": Subject(partial(of_paper, "FullyConnected"), 50),
    "ConvNet": Subject(partial(of_paper, "ConvNet"), 50),
    "ResNet": Subject(resnet, 200),
}


# -- Simulators ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Importer:
    """A simulator that reads NIR.

    Attributes:
        pooling: the kind that it reads.
        simulate: spikes and outputs, from the graph and inputs [T, B, ...], channels first.
        changed: what the graph or the module needed.
        exact: whether it must compute the same spikes.
    """

    pooling: Any
    simulate: Callable[[nir.NIRGraph, torch.Tensor], Sent]
    changed: str = "nothing"
    exact: bool = True


def stepwise(module: torch.nn.Module, names: list[str], inputs: torch.Tensor) -> Sent:
    """Run a module of one step and a state; hooks take what its neurons send."""
    sent: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for name in names:
        module.get_submodule(name).register_forward_hook(
            lambda _, __, result, name=name: sent[name].append(result[0].numpy().astype(bool))
        )
    outputs, state = [], None
    with torch.no_grad():
        for step in inputs:
            output, state = module(step, state)
            outputs.append(output.numpy())
    return {name: np.stack(values) for name, values in sent.items()}, np.stack(outputs)


def neurons_of(graph: nir.NIRGraph) -> list[str]:
    """The names of the nodes that spike."""
    return [name for name, node in graph.nodes.items() if isinstance(node, nir.IF)]


def in_spikingjelly(graph: nir.NIRGraph, inputs: torch.Tensor) -> Sent:
    """SpikingJelly's importer, which wants r = 1/dt: a step of 1."""
    return stepwise(nir_exchange.import_from_nir(graph, dt=1.0), neurons_of(graph), inputs)


def ordered(module: Any, graph: nir.NIRGraph) -> Any:
    """A module of `nirtorch.load`, with each node after those that it reads."""
    sources = {name: [s for s, target in graph.edges if target == name] for name in graph.nodes}
    order = list(TopologicalSorter(sources).static_order())
    module.execution_order = sorted(module.execution_order, key=lambda node: order.index(node.name))
    return module


def in_norse(graph: nir.NIRGraph, inputs: torch.Tensor, *, changed: bool = False) -> Sent:
    """Norse's importer, as it comes or with what it takes for the batch and its order mended."""
    if not changed:
        return stepwise(norse.torch.from_nir(graph, dt=1.0), neurons_of(graph), inputs)
    for node in graph.nodes.values():
        if isinstance(node, nir.Flatten):
            node.start_dim = 1
    module = ordered(norse.torch.from_nir(graph, dt=1.0), graph)
    return stepwise(module, neurons_of(graph), inputs)


def in_sinabs(graph: nir.NIRGraph, inputs: torch.Tensor, *, changed: bool = False) -> Sent:
    """Sinabs's importer, all steps of a layer at once; as it comes or with the neurons of NIR."""
    steps, batch = inputs.shape[:2]
    module = sinabs.from_nir(graph, batch_size=batch)
    module = ordered(module, graph) if changed else module
    sent: dict[str, np.ndarray] = {}
    for name in neurons_of(graph):
        part = module.get_submodule(name)
        if changed:
            part.min_v_mem = None
            part.spike_fn = sinabs.activation.SingleSpike
            part.reset_fn = sinabs.activation.MembraneReset()
        part.register_forward_hook(
            lambda _, __, result, name=name: sent.__setitem__(name, result.numpy())
        )
    with torch.no_grad():
        found = module(inputs.swapaxes(0, 1).reshape(-1, *inputs.shape[2:]))[0].numpy()

    def by_step(values: np.ndarray) -> np.ndarray:
        return values.reshape(batch, steps, *values.shape[1:]).swapaxes(0, 1)

    return {name: by_step(values) for name, values in sent.items()}, by_step(found)


IMPORTERS = {
    "SpikingJelly": Importer("average", in_spikingjelly),
    "Norse": Importer("sum", in_norse, exact=False),
    "Norse, changed": Importer(
        "sum",
        partial(in_norse, changed=True),
        "`Flatten(start_dim=1)`; order",
    ),
    "sinabs": Importer("sum", in_sinabs, exact=False),
    "sinabs, changed": Importer(
        "sum",
        partial(in_sinabs, changed=True),
        "one spike a step, reset to zero, no floor of the potential; order",
    ),
}


# -- The comparison --------------------------------------------------------------------------------


def record(step: jaxsnn.engines.Step) -> Any:
    """What is compared: the inputs and the spikes of every layer."""
    return step.inputs, step.spikes


class Part(NamedTuple):
    """Some of the images: which, their inputs and spikes [T, B, ...], and predictions [B]."""

    where: slice
    inputs: np.ndarray
    spikes: list[np.ndarray]
    predictions: np.ndarray


def ours(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int) -> Iterator[Part]:
    """What jaxsnn computes, some images at a time."""
    for start in range(0, len(images), AT_ONCE):
        where = slice(start, start + AT_ONCE)
        run = jaxsnn.simulate(
            snn,
            images[where],
            key=0,
            duration=steps * DT,
            samples=np.arange(len(images))[where],
            engine="scan",
            record=record,
            progress=False,
        )
        inputs, spikes = jax.tree.map(lambda sent: np.asarray(sent, bool), run.records)
        fires = [layer.spiking for layer in snn.network.layers]
        spikes = [layer for layer, spiking in zip(spikes, fires, strict=True) if spiking]
        yield Part(where, inputs, spikes, np.asarray(run.predictions[-1]))


def channels_first(array: np.ndarray) -> np.ndarray:
    """[T, B, ..., C] to [T, B, C, ...]."""
    return np.moveaxis(array, -1, 2)


def predicted(outputs: np.ndarray) -> np.ndarray:
    """The class with the most spikes or the largest sum, -1 where neurons have not spiked."""
    total = outputs.sum(0)
    silent = (total == 0).all(-1)
    return np.where(silent, -1, total.argmax(-1))


def compared(
    importer: Importer, graph: nir.NIRGraph, parts: list[Part], labels: np.ndarray
) -> dict[str, Any]:
    """For each layer how many spikes differ, and the accuracy."""
    names = neurons_of(graph)
    differ, seen, right = dict.fromkeys(names, 0), dict.fromkeys(names, 0), 0
    for part in parts:
        first = torch.as_tensor(np.ascontiguousarray(channels_first(part.inputs), np.float32))
        sent, outputs = importer.simulate(graph, first)
        for name, layer in zip(names, part.spikes, strict=True):
            expected = channels_first(layer)
            differ[name] += int((sent[name].reshape(expected.shape) != expected).sum())
            seen[name] += int(expected.sum())
        right += int((predicted(outputs) == labels[part.where]).sum())
    return {"differ": differ, "spikes": seen, "accuracy": right / len(labels)}


def measured(
    importer: Importer, snn: jaxsnn.SpikingNetwork, parts: list[Part], labels: np.ndarray
) -> dict[str, Any]:
    """The row of a network and an importer, or the error that the importer ends in."""
    with TemporaryDirectory() as folder:  # through a file, as a user would
        nir.write(Path(folder) / "network.nir", jaxsnn.to_nir(snn, pooling=importer.pooling))
        graph = nir.read(Path(folder) / "network.nir")
    try:
        return compared(importer, graph, parts, labels)
    except Exception as error:  # of whatever kind: the table says so
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def table(rows: list[dict[str, Any]]) -> str:
    """How many spikes differ in all layers, and accuracies in percent."""
    shown = [
        {
            "network": row["network"],
            "steps": row["steps"],
            "simulator": row["simulator"],
            "changed": row["changed"],
            "spikes": "" if "refused" in row else f"{sum(row['spikes'].values()):,}",
            "differ": row.get("refused") or f"{sum(row['differ'].values()):,}",
            "accuracy": "" if "refused" in row else f"{100 * row['accuracy']:.1f}",
            "jaxsnn": f"{100 * row['jaxsnn']:.1f}",
        }
        for row in rows
    ]
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def main(
    trained: Trained = Trained(),  # noqa: B008 - it is not changed
    networks: tuple[str, ...] = tuple(NETWORKS),
    images: int = 1000,
    quick: bool = False,
    output: Path = RESULTS / "elsewhere.json",
) -> None:
    """The same spikes in other simulators?

    Args:
        trained: where the networks are from.
        networks: which of them.
        images: of MNIST's test set.
        quick: a short run that only shows that everything works.
        output: the file for the results.
    """
    images = AT_ONCE if quick else images
    results = new_results(images=images, grid=GRID)
    results["machine"] |= {name: version(name) for name in PACKAGES}
    results["rows"] = []
    for name in networks:
        steps = 10 if quick else NETWORKS[name].steps
        snn, test = NETWORKS[name].make(trained)
        snn, labels = on_grid(snn), test.labels[:images]
        parts = list(ours(snn, test.images[:images], steps))
        right = np.concatenate([part.predictions for part in parts]) == labels
        for simulator, importer in IMPORTERS.items():
            row = {"network": name, "simulator": simulator, "changed": importer.changed}
            row |= {"steps": steps, "exact": importer.exact, "jaxsnn": float(right.mean())}
            results["rows"].append(row | measured(importer, snn, parts, labels))
            save(results, output)
            print(json.dumps(results["rows"][-1]), file=sys.stderr, flush=True)
    print(table(results["rows"]))
    for row in results["rows"]:
        if row["exact"] and ("refused" in row or any(row["differ"].values())):
            sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
