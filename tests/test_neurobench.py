"""Recorded spikes are enough for NeuroBench, and its figures are ours.

NeuroBench counts what goes through modules of PyTorch. So the spikes of a run are handed to such
modules, one with the weights of each layer and a ReLU for its neurons.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn import metrics

import models

torch = pytest.importorskip("torch")
pytest.importorskip("neurobench")

from neurobench.benchmarks import Benchmark  # noqa: E402
from neurobench.metrics.static import ConnectionSparsity  # noqa: E402
from neurobench.metrics.workload import (  # noqa: E402
    ActivationSparsity,
    ClassificationAccuracy,
    SynapticOperations,
)
from neurobench.models import NeuroBenchModel  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

STEPS = 8


def sent(step):
    return [step.inputs, *step.spikes]


def module_of(layer):
    """A module of PyTorch with a layer's weights: dense, or convolutions without padding."""
    if not layer.weighted:
        return torch.nn.Identity()
    kernel = np.array(layer.operations[-1].kernel)
    if kernel.ndim == 2:
        made = torch.nn.Linear(*kernel.shape, bias=False)
    else:
        made = torch.nn.Conv2d(*kernel.shape[2:], kernel.shape[:2], bias=False)
    made.weight.data = torch.tensor(kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1))
    return made


class Replayed(NeuroBenchModel):
    """A spiking network whose spikes go through modules that NeuroBench looks at."""

    def __init__(self, snn):
        super().__init__()
        self.snn, layers = snn, snn.network.layers
        self.synapses = torch.nn.ModuleList(map(module_of, layers))
        self.neurons = torch.nn.ModuleList(torch.nn.ReLU() for _ in layers)
        self.net = torch.nn.ModuleDict({"synapses": self.synapses, "neurons": self.neurons})

    def __net__(self):
        return self.net

    def __call__(self, batch):
        self.run = jaxsnn.simulate(
            self.snn, batch.numpy(), key=0, duration=STEPS / 1000, engine="scan", record=sent
        )
        spikes = [
            jaxsnn.from_events(jaxsnn.to_events(s, self.run.times), self.run.times, s.shape[1:])
            for s in self.run.records
        ]
        for layer, before, after, synapses, neurons in zip(
            self.snn.network.layers, spikes, spikes[1:], self.synapses, self.neurons
        ):
            flat = before.reshape(-1, *before.shape[2:])
            for operation in layer.operations[:-1]:
                flat = np.asarray(operation(flat))
            values = flat.transpose(0, 3, 1, 2) if flat.ndim == 4 else flat
            synapses(torch.tensor(values))
            neurons(torch.tensor(after))
        return torch.tensor(np.asarray(self.run.predictions[-1]))


@pytest.mark.parametrize("build", [models.dense_network, models.convolution_network])
def test_figures_agree(build, rng):
    network, _ = build(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 5, *network.input_shape)
    labels = rng.integers(0, network.shapes[-1][0], 5)
    data = DataLoader(TensorDataset(torch.tensor(images), torch.tensor(labels)), batch_size=5)
    model = Replayed(snn)
    workload = [ActivationSparsity, SynapticOperations, ClassificationAccuracy]
    figures = Benchmark(model, data, [], [], [[ConnectionSparsity], workload]).run(quiet=True)
    run = model.run
    assert figures["SynapticOperations"]["Effective_ACs"] == np.mean(run.synaptic_operations) > 0
    assert figures["SynapticOperations"]["Effective_MACs"] == 0
    # Weights of zero are operations of NeuroBench's dense ones, and no synapses of ours.
    full = jax.tree.map(lambda w: jnp.where(w == 0, 1, w), network)
    assert figures["SynapticOperations"]["Dense"] == STEPS * metrics.dense_operations(full)
    neurons = sum(np.prod(shape) for shape in network.shapes)
    silent = 1 - sum(float(np.sum(counts)) for counts in run.spike_counts) / (5 * STEPS * neurons)
    assert figures["ActivationSparsity"] == pytest.approx(silent, abs=1e-12)
    assert figures["ClassificationAccuracy"] == pytest.approx(float(run.accuracy(labels)[-1]))
    weights = np.concatenate([w.ravel() for layer in network.layers for w in layer.weights])
    assert figures["ConnectionSparsity"] == pytest.approx(np.mean(weights == 0), abs=5e-4)
