"""Is a network that was trained in PyTorch as accurate in spikes as by SpikingJelly's converter?

Both convert the same module with the same calibration images, and see the pixels of the same test
images as constant currents, as in architectures.py.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import tyro
import zoo
from architectures import by_spikingjelly, compared, recipes, scores, table
from common import RESULTS, new_results, save
from torch import Tensor, nn
from twins import as_torch

import jaxsnn

PACKAGES = ("torch", "torchax", "spikingjelly")


def cnn() -> nn.Sequential:
    """A small network with batch norm and max pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.LazyLinear(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def trained(images: Tensor, labels: Tensor, epochs: int) -> nn.Sequential:
    """The network after so many epochs of cross-entropy, in evaluation mode."""
    torch.manual_seed(0)
    module = cnn()
    module(images[:1])  # sizes its first dense layer
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(module(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return module.eval()


@torch.no_grad()
def main(
    training: int = 12_000,
    epochs: int = 2,
    calibration: int = 500,
    images: int = 1000,
    steps: int = 64,
    output: Path = RESULTS / "from_torch.json",
) -> None:
    """Accuracy against steps of a small CNN trained in PyTorch, for each converter.

    Args:
        training: images of MNIST's training set.
        epochs: of the training.
        calibration: training images that scale factors are taken from.
        images: of MNIST's test set.
        steps: of the simulation.
        output: the file for the results.
    """
    train, test = zoo.mnist()
    pixels, labels = as_torch(train.images[:training]), torch.tensor(train.labels[:training])
    with torch.enable_grad():
        module = trained(pixels, labels.long(), epochs)
    seen, classes = as_torch(test.images[:images]), np.asarray(test.labels[:images])
    logits, few = module(seen).numpy(), pixels[:calibration]
    found = {
        "jaxsnn": scores(jaxsnn.convert(module, few.numpy()), seen.numpy(), steps),
        "jaxsnn, for 4 steps": scores(
            jaxsnn.convert(module, few.numpy(), steps=4), seen.numpy(), steps
        ),
    }
    for name, recipe in recipes().items():
        snn = by_spikingjelly(recipe, deepcopy(module), few)
        found[f"SpikingJelly, {name}"] = np.cumsum([snn(seen).numpy() for _ in range(steps)], 0)
        print(name, "done", file=sys.stderr, flush=True)
    results = new_results(training=training, epochs=epochs, calibration=calibration, images=images)
    results["machine"] |= {name: version(name) for name in PACKAGES}
    results["rows"] = [
        {"network": "CNN of PyTorch", "converter": name} | compared(logits, sums, classes)
        for name, sums in found.items()
    ]
    save(results, output)
    print(table(results["rows"]))


if __name__ == "__main__":
    tyro.cli(main)
