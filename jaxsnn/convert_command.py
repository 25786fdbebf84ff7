"""The command line's conversion of a model of one's own: report, accuracy, pictures, a file."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro

from jaxsnn import plotting
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.convert import convert
from jaxsnn.conversion.fixed_point import FixedPoint, FixedPointNetwork
from jaxsnn.datasets import Dataset, load_dataset
from jaxsnn.diagnosis import report
from jaxsnn.interchange.files import save
from jaxsnn.metrics import checked_labels
from jaxsnn.reading import read_network
from jaxsnn.simulation import simulate
from jaxsnn.support.errors import UsageError
from jaxsnn.support.files import made_folder, save_figure, save_text
from jaxsnn.training import accuracy

_DT = 1e-3
_AT_ONCE = 200  # images of one simulation, which bounds its memory
_REPORTED = 100  # images


def convert_model(
    model: Annotated[str, tyro.conf.Positional],
    data: str,
    weights: Path | None = None,
    steps: int | None = None,
    percentile: float | None = None,
    bits: Literal[8, 16] | None = None,
    simulated_steps: int = 32,
    calibration: int = 500,
    images: int = 1000,
    splits: tuple[str, str] | None = None,
    size: tuple[int, int] | None = None,
    output: Path = Path("converted"),
    data_dir: Path | None = None,
    archives: Path | None = None,
) -> pd.DataFrame:
    """Convert a model of your own, and show how accurate it is with spikes, and how soon.

    Prints the report, layer by layer, and the accuracy after some steps. Writes to a folder:
    network.safetensors, for `jaxsnn.load`; report.txt and report.png; accuracy.csv and
    accuracy.png.

    Args:
        model: module:name, such as train:trained for the function `trained` of train.py in this
            folder. A function without arguments is called, and returns the model; with weights,
            it is called with their path. A function of images is the model itself, and so is any
            model that is no function.
        data: mnist, another name of TensorFlow Datasets, or a folder with train/cat/1.png, ... and
            test/cat/2.png, ...
        weights: the file or folder of the weights, which your function reads.
        steps: choose scale factors for so many steps; by default for many.
        percentile: of the activations, as the scale factors; by default 99.9.
        bits: round weights to 8 or 16 bits, and simulate integers; by default float32.
        simulated_steps: how many steps to simulate.
        calibration: how many training images the scale factors come from.
        images: how many test images to simulate.
        splits: the names of the training set and of the test set, with other data than mnist,
            fashion_mnist and cifar10, such as "train[:10%]" validation.
        size: height and width to which images of such data are resized.
        output: the folder for the results.
        data_dir: the data directory of TensorFlow Datasets; by default its own.
        archives: a folder with the official archives of the data; by default JAXSNN_ARCHIVES.

    Returns:
        The accuracy after every step.

    Raises:
        DatasetError: the data cannot be had; the message says what was tried.
        UsageError: no such module or function, a model that cannot be converted or does not fit
            the data, a number out of range, or a folder that cannot be written to.

    Example:
        >>> from jaxsnn.convert_command import convert_model
        >>> convert_model("train.py", "mnist")
        Traceback (most recent call last):
        ...
        jaxsnn.support.errors.UsageError: model='train.py' names no function or model of a module: \
write train:NAME.
    """
    _check_numbers(steps, percentile, simulated_steps, calibration, images)
    made = _model(model, weights)
    try:
        made_folder(output)
        train, test = load_dataset(
            data, splits=splits, size=size, data_dir=data_dir, archives=archives
        )
    except (OSError, ValueError) as error:
        raise UsageError(error) from error
    test = Dataset(test.images[:images], test.labels[:images], test.class_names)
    try:
        network = read_network(made, train.images[:1])
        checked_labels(test.labels, classes=network.shapes[-1][-1])
        snn = convert(network, train.images[:calibration], steps=steps, percentile=percentile)
        arithmetic = None if bits is None else FixedPoint(bits, steps=max(1000, simulated_steps))
        runnable = snn if arithmetic is None else arithmetic(snn)
    except (TypeError, ValueError) as error:
        function = weights is None and inspect.isfunction(made)
        hint = " If it makes the model from a file, give --weights." if function else ""
        raise UsageError(f"{model}, with {train}: {error}{hint}") from error
    some = Dataset(test.images[:_REPORTED], test.labels[:_REPORTED])
    how = {"labels": some.labels, "steps": simulated_steps}
    found = report(snn, some.images, arithmetic=arithmetic, **how)
    print(found, flush=True)
    curve = _curve(runnable, test, simulated_steps)
    relu_accuracy = accuracy(snn.network, test)
    try:
        save(output / "network.safetensors", runnable)
        _write(output, str(found), curve)
        save_figure(output / "report.png", found.plot())
        times = _DT * curve["step"].to_numpy()
        drawn = plotting.plot_accuracy(
            {"spiking": curve["accuracy"].to_numpy()}, times, relu_accuracy=relu_accuracy
        )
        save_figure(output / "accuracy.png", drawn)
    except OSError as error:
        raise UsageError(error) from error
    print(_table(curve, relu_accuracy), f"Results are in {output.resolve()}", sep="\n\n")
    return curve


# -- The model -------------------------------------------------------------------------------------


def _model(text: str, weights: Path | None) -> Any:
    """The model that module:name stands for."""
    found = _named(text)
    if inspect.isclass(found):
        raise UsageError(f"{text} is a class: write a function that returns a model of it.")
    if weights is not None and not weights.exists():
        raise UsageError(f"weights={weights} does not exist; name a file or a folder.")
    if not inspect.isfunction(found):
        if weights is not None:
            raise UsageError(
                f"{text} is no function that could read {weights}: write one, of one argument, "
                "that returns the model with these weights."
            )
        return found
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = [p for p in inspect.signature(found).parameters.values() if p.kind not in variable]
    required = [each for each in parameters if each.default is each.empty]
    if len(required) > 1 or (weights is not None and not parameters):
        wanted = "no argument, or images" if weights is None else "one, the path of the weights"
        raise UsageError(
            f"{text} takes {len(required)} arguments, but must take {wanted}: write a function "
            "that returns your model."
        )
    if weights is not None:
        return found(weights)
    return found if required else found()


def _named(text: str) -> Any:
    """What module:name stands for, in the working folder or among what is installed."""
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name) or module_name.endswith(".py"):
        module_name = module_name.removesuffix(".py").replace(os.sep, ".")
        raise UsageError(
            f"model={text!r} names no function or model of a module: write "
            f"{module_name or 'MODULE'}:{name or 'NAME'}."
        )
    if os.getcwd() not in sys.path:  # for a command that is no module
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(f"{module_name} cannot be imported: {error}; install it.") from error
        raise UsageError(
            f"There is no module {error.name!r} here ({os.getcwd()}) or among what is installed: "
            f"call the command in the folder of {module_name.partition('.')[0]}.py."
        ) from error
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        near = difflib.get_close_matches(name, public, cutoff=0.4) or public[-5:]
        raise UsageError(
            f"{module.__file__} has no {name!r}; it has {', '.join(near) or 'no public names'}."
        )
    return getattr(module, name)


def _check_numbers(steps: int | None, percentile: float | None, *counts: int) -> None:
    """Raise UsageError for what `convert` would refuse only after the data were loaded."""
    for name, count in zip(("simulated_steps", "calibration", "images"), counts, strict=True):
        if count < 1:
            raise UsageError(f"{name}={count}; there must be at least 1.")
    if steps is not None and percentile is not None:
        raise UsageError(
            f"percentile={percentile:g} and steps={steps}: with steps, percentiles are tried; give "
            "one of the two."
        )
    if steps is not None and not 1 <= steps <= counts[0]:
        raise UsageError(f"steps={steps}; take 1 to simulated_steps={counts[0]}.")
    if percentile is not None and not 0 < percentile <= 100:
        raise UsageError(f"percentile={percentile:g}; it must be above 0 and at most 100.")


# -- The results -----------------------------------------------------------------------------------


def _curve(snn: SpikingNetwork | FixedPointNetwork, test: Dataset, steps: int) -> pd.DataFrame:
    """The accuracy after every step."""
    parts = np.array_split(np.arange(len(test)), -(-len(test) // _AT_ONCE))
    correct = np.zeros(steps)
    for part in parts:
        run = simulate(snn, test.images[part], key=0, steps=steps, samples=part)
        correct += np.rint(len(part) * np.asarray(run.accuracy(test.labels[part])))
    return pd.DataFrame({"step": np.arange(1, steps + 1), "accuracy": correct / len(test)})


def _table(curve: pd.DataFrame, relu_accuracy: float) -> str:
    """The accuracy after 1, 2, 4, ... steps and after all of them."""
    last = len(curve)
    shown = sorted({*(2**n for n in range(last.bit_length())), last})
    rows = curve[curve["step"].isin(shown)]
    percent = [f"{100 * value:.2f}" for value in [*rows["accuracy"], relu_accuracy]]
    table = pd.DataFrame({"steps": [*map(str, shown), "ReLU"], "accuracy (%)": percent})
    return str(table.to_markdown(index=False, disable_numparse=True))


def _write(output: Path, text: str, curve: pd.DataFrame) -> None:
    save_text(output / "report.txt", f"{text}\n")
    save_text(output / "accuracy.csv", curve.to_csv(index=False))
