"""How fast are converted networks of many kinds simulated, beside SpikingJelly's converter?

The job: the same weights, converted and calibrated by each library; 32 steps of a batch with pixels
as constant currents, and the class after each step. All take turns, A B C D, A B C D, …, and the
ratio of the medians counts. Exits with 1 if accuracies show that it is not the same job.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
import zoo
from architectures import PER_CHANNEL, converted_by_spikingjelly, recipes
from common import DT, RESULTS, interleaved, medians, new_results, save

import jaxsnn

SHORTEST = 0.5  # seconds of one measurement: shorter jobs are repeated within it
CHOSEN = ("CNN of Flax's tutorial", "VGG", "ResNet", "Inception", "pre-activation ResNet")
ALLOWED = 0.03  # difference of accuracies

Job = Callable[[], np.ndarray]  # the class after each step [T, B]


def our_jobs(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int) -> dict[str, Job]:
    """Both engines of jaxsnn, in floating point and in 8 bits."""

    def classes(network: Any, engine: str) -> np.ndarray:
        options: dict[str, Any] = {"duration": steps * DT, "dt": DT, "progress": False}
        run = jaxsnn.simulate(network, images, key=0, engine=engine, **options)
        return np.asarray(run.predictions)

    jobs: dict[str, Job] = {}
    for name, network in (("float32", snn), ("8 bits", jaxsnn.quantize(snn))):
        for engine in ("events", "scan"):
            job = partial(classes, network, engine)
            try:
                job()
            except ValueError as error:
                print(f"{engine}, {name}: {error}", file=sys.stderr)
            else:
                jobs[f"jaxsnn, {engine}, {name}"] = job
    return jobs


def spikingjelly_job(name: str, calibration: np.ndarray, images: np.ndarray, steps: int) -> Job:
    """SpikingJelly's converted network, with the settings that are most like those of `convert`."""
    import torch
    from spikingjelly.activation_based import functional
    from twins import as_torch

    snn = converted_by_spikingjelly(recipes()[PER_CHANNEL], name, calibration, images)
    pixels = as_torch(images)

    def classes() -> np.ndarray:
        functional.reset_net(snn)
        with torch.no_grad():
            return np.cumsum([snn(pixels).numpy() for _ in range(steps)], 0).argmax(-1)

    return classes


def table(rows: list[dict[str, Any]]) -> str:
    """Medians of image-steps per second, and how many times the peer's they are."""
    shown: dict[str, dict[str, str]] = {}
    for row in rows:
        rates = medians(row["image-steps per second"])
        peer = rates.get("SpikingJelly")
        for name, rate in rates.items():
            ratio = f" ({rate / peer:.1f})" if peer and name != "SpikingJelly" else ""
            shown.setdefault(name, {})[row["network"]] = f"{rate:,.0f}{ratio}"
    found = pd.DataFrame(shown).T.fillna("").rename_axis("image-steps per second")
    return found.to_markdown(disable_numparse=True)


def main(
    networks: tuple[str, ...] = CHOSEN,
    batch: int = 500,
    steps: int = 32,
    calibration: int = 500,
    repeats: int = 5,
    quick: bool = False,
    output: Path = RESULTS / "architectures_speed.json",
) -> None:
    """Image-steps per second of trained networks, for each engine and for SpikingJelly.

    Args:
        networks: which of the zoo.
        batch: images that are simulated together.
        steps: of a simulation.
        calibration: training images that scale factors are taken from.
        repeats: rounds; the medians count.
        quick: a short run that only shows that everything works.
        output: the file for the results.
    """
    if quick:
        batch, steps, calibration, repeats = 20, 4, 50, 1
    results = new_results(batch=batch, steps=steps, calibration=calibration, repeats=repeats)
    peers = ("torch", "spikingjelly") if find_spec("spikingjelly") else ()
    results["machine"] |= {name: version(name) for name in peers}
    results["rows"] = []
    train, test = zoo.mnist()
    images, labels = test.images[:batch], test.labels[:batch]
    for name in networks:
        snn = jaxsnn.convert(zoo.trained(name), train.images[:calibration], progress=False)
        jobs = our_jobs(snn, images, steps)
        if peers:
            jobs["SpikingJelly"] = spikingjelly_job(name, train.images[:calibration], images, steps)
        accuracy = {tool: float((job()[-1] == labels).mean()) for tool, job in jobs.items()}
        seconds = interleaved(jobs, repeats, SHORTEST)
        rates = {tool: [batch * steps / s for s in values] for tool, values in seconds.items()}
        row = {"network": name, "image-steps per second": rates, "accuracy": accuracy}
        results["rows"].append(row)
        save(results, output)
        print(name, accuracy, file=sys.stderr, flush=True)
    print(table(results["rows"]))
    if not quick and any(np.ptp(list(r["accuracy"].values())) > ALLOWED for r in results["rows"]):
        sys.exit("the accuracies differ: this is not the same job.")


if __name__ == "__main__":
    tyro.cli(main)
