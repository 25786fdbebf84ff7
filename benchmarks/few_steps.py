"""How much of what few steps lose does calibration win back?

The networks of zoo.py, converted with the settings of `convert`, and then calibrated without labels
for that number of steps on the same images of the training set, which the networks were not trained
with; accuracies on the test set of MNIST.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import tyro
import zoo
from common import DT, RESULTS, new_results, save

import jaxsnn


def unseen(count: int) -> np.ndarray:
    """The last images of the training set, which `zoo.fit` does not see."""
    train, _ = jaxsnn.load_dataset("mnist")
    return zoo.reduced(jaxsnn.Dataset(train.images[-count:], train.labels[-count:]), count).images


def accuracy(snn: jaxsnn.SpikingNetwork, data: jaxsnn.Dataset, steps: int) -> float:
    """The accuracy of a spiking network after so many steps."""
    run = jaxsnn.simulate(snn, data.images, key=0, duration=steps * DT, dt=DT, progress=False)
    return float(run.accuracy(data.labels)[-1])


def main(
    names: tuple[str, ...] = ("ResNet", "pre-activation ResNet", "VGG"),
    steps: tuple[int, ...] = (4, 8),
    images: int = 2_000,
    epochs: int = 10,
) -> None:
    """Measure, print, and write results/few_steps.json.

    Args:
        names: networks of zoo.py.
        steps: numbers of steps.
        images: calibration images, of which a fifth decides what is kept.
        epochs: how often they are seen.
    """
    _, test = zoo.mnist()
    calibration = unseen(images)
    results = new_results(images=images, epochs=epochs)
    results["rows"] = []
    for name in names:
        snn = jaxsnn.convert(zoo.trained(name), calibration, progress=False)
        relu = np.concatenate([snn.network(part) for part in np.array_split(test.images, 20)])
        for count in steps:
            start = perf_counter()
            better = jaxsnn.calibrate(snn, calibration, steps=count, epochs=epochs, progress=False)
            row = {
                "network": name,
                "steps": count,
                "relu": float(np.mean(relu.argmax(-1) == test.labels)),
                "seconds": round(perf_counter() - start, 1),
                "converted": accuracy(snn, test, count),
                "calibrated": accuracy(better, test, count),
            }
            results["rows"].append(row)
            print(row, flush=True)
            save(results, RESULTS / "few_steps.json")


if __name__ == "__main__":
    tyro.cli(main)
