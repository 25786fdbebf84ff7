"""Bad calls of the public interface, and whether each ends in an error that helps.

The corpus belongs to no part of the library: it is what a user may get wrong. `python
tests/bad_inputs.py` runs all of it and prints what is left to mend; `tests/test_bad_inputs.py` runs
it in a process of its own, without the type checks that the other tests install.

An error is clear if the library raises it on purpose (a `raise` statement of its own is the last
line of the traceback), as a ValueError, a TypeError or an OSError, with a message that names what
is wrong and is short enough to be read. A call without an error is accepted nonsense, unless it
warns or returns nan where that is what is expected.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import io
import json
import opcode
import os
import re
import resource
import signal
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray as xr
from flax import linen, nnx
from jax import lax

import jaxsnn
from jaxsnn import metrics, neurons, plotting, readout, stopping, sweeps, training
from jaxsnn.paper import deep_networks, networks

LONGEST_MESSAGE = 1200
LONGEST_TIME = 20  # seconds for one case
MEMORY = 6 << 30  # bytes of address space beyond what the process has
_PACKAGE = str(Path(jaxsnn.__file__).parent) + os.sep
_NUMBERED = re.compile(r" 0x[0-9a-f]+")


@dataclasses.dataclass(frozen=True)
class Case:
    """One bad call.

    Attributes:
        part: which part of the corpus it belongs to.
        group: the function.
        name: function, argument and value.
        call: makes the call.
        words: the message must have one of these, a regular expression.
        expect: "error"; "warning" or "nan", which an error satisfies too; or "clear", where the
            library may take the value and only an unclear error is wrong.
        forbid: the message must not have these.
    """

    part: str
    group: str
    name: str
    call: Callable[[], Any]
    words: str
    expect: str = "error"
    forbid: str | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a case: "clear", "unclear", "accepted" or "fine", and why."""

    part: str
    group: str
    name: str
    kind: str
    reason: str
    message: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Traced:
    """A value that the call gets as a tracer, inside `jax.jit`."""

    value: Any


class _TooLong(BaseException):
    """The time for a case is over."""


# -- The classifier --------------------------------------------------------------------------------


def judged(case: Case) -> Result:
    """Run a case."""
    began = time.monotonic()
    with warnings.catch_warnings(), _limits(), _quiet() as printed:
        warnings.simplefilter("ignore")
        if case.expect == "warning":  # as an error, which ends a run that may be long
            warnings.filterwarnings("error", rf"(?s).*({case.words})")
        try:
            value = case.call()
        except _TooLong:
            kind = "fine" if case.expect == "clear" else "accepted"
            reason, message = "still running at the time limit", ""
        except Warning as warning:
            kind, reason, message = "fine", "", f"a warning: {warning}"
        except SystemExit as stop:
            kind, reason, message = _exit(case, stop, printed.getvalue())
        except BaseException as error:
            kind, reason, message = _error(case, error)
        else:
            kind, reason, message = _value(case, value)
    seconds = time.monotonic() - began
    return Result(case.part, case.group, case.name, kind, reason, message, seconds)


def _error(case: Case, error: BaseException) -> tuple[str, str, str]:
    message = f"{type(error).__name__}: {error}"
    if not isinstance(error, TypeError | ValueError | OSError | jaxsnn.DatasetError):
        return "unclear", f"a {type(error).__name__}", message
    place = _not_on_purpose(error)
    if place:
        return "unclear", f"from {place}", message
    return _message(case, str(error), message)


def _message(case: Case, text: str, message: str) -> tuple[str, str, str]:
    if len(text) > LONGEST_MESSAGE:
        return "unclear", f"{len(text)} characters", message
    if not re.search(case.words, text, re.IGNORECASE):
        return "unclear", f"names none of {case.words}", message
    if case.forbid and re.search(case.forbid, text):
        return "unclear", f"misleads: {case.forbid}", message
    return "clear", "", message


def _not_on_purpose(error: BaseException) -> str:
    """Where an error comes from, if not from a `raise` statement of the library."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    place = f"{Path(code.co_filename).name}:{trace.tb_lineno}"
    if not code.co_filename.startswith(_PACKAGE):
        return place
    raised = opcode.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    return "" if raised else f"{place}, where nothing is raised on purpose"


def _exit(case: Case, stop: SystemExit, printed: str) -> tuple[str, str, str]:
    """A command line that ended itself: its message, or what its parser printed."""
    if isinstance(stop.code, str):
        return _message(case, stop.code, f"exit: {stop.code}")
    message = f"exit {stop.code}: {' '.join(printed.split())}"
    if not stop.code:
        return "accepted", "exit status 0", message
    if "Traceback" in printed or not re.search(case.words, printed, re.IGNORECASE):
        return "unclear", f"names none of {case.words}", message
    return "clear", "", message


def _value(case: Case, value: Any) -> tuple[str, str, str]:
    try:
        shown = re.sub(r"\s+", " ", repr(value)[:200])
    except Exception as error:  # a repr of what should never have been made
        shown = f"a {type(value).__name__} whose repr fails: {error}"
    if case.expect == "clear":
        return "fine", "", shown
    if case.expect == "nan":
        found = np.asarray(value, np.float64)
        return ("fine", "", shown) if np.isnan(found).all() else ("accepted", "not nan", shown)
    return "accepted", "no warning" if case.expect == "warning" else "no error", shown


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """A limit of time and of memory for what should end at once."""

    def over(*_: Any) -> None:
        raise _TooLong

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, over)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, LONGEST_TIME)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield text


# -- What the calls are made with ------------------------------------------------------------------


class LinenModel(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.relu(linen.Dense(2, use_bias=False)(x))


class LinenNorm(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(2, use_bias=False)(x)
        return linen.relu(linen.BatchNorm(use_running_average=not train)(x))


class LinenDropout(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        x = linen.relu(linen.Dense(2, use_bias=False)(x))
        return linen.relu(linen.Dropout(0.5, deterministic=not train)(x))


class Sequential(nnx.Module):
    """Any layers, one after the other."""

    def __init__(self, *layers: Any):
        self.layers = nnx.List(layers)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class World:
    """Small networks, runs, data and files that the calls share."""

    def __init__(self, folder: Path):
        self.folder = folder
        numbers = np.random.default_rng(7)
        self.weights = [numbers.uniform(0.1, 1, shape).astype("f4") for shape in ((4, 3), (3, 2))]
        self.images = numbers.uniform(0.2, 0.9, (2, 4)).astype(np.float32)
        self.others = self.images[::-1].copy()
        self.labels = np.array([0, 1])
        self.network = jaxsnn.read_network(self.model, self.images)
        self.snn = jaxsnn.balance_thresholds(self.network, 1.0)
        self.fixed = jaxsnn.quantize(self.snn)
        self.key = jax.random.key(0)
        self.run = self.simulate()
        self.state = self.run.state
        self.wide = jaxsnn.read_network(
            lambda x: jax.nn.relu(x @ np.ones((4, 5), "f4")), self.images
        )
        self.kernel = numbers.uniform(0.1, 1, (3, 3, 1, 2)).astype("f4")
        self.photos = numbers.uniform(0, 1, (2, 6, 6, 1)).astype("f4")
        self.maps = jaxsnn.read_network(self.convolve, self.photos)
        self.dense = numbers.uniform(0.1, 1, (32, 3)).astype("f4")
        self.photo_network = jaxsnn.read_network(
            lambda x: jax.nn.relu(self.convolve(x).reshape(len(x), -1) @ self.dense), self.photos
        )
        self.photo_snn = jaxsnn.balance_thresholds(self.photo_network, 1.0)
        self.dead = jaxsnn.read_network(
            lambda x: jax.nn.relu(jax.nn.relu(x @ -np.ones((4, 3), "f4")) @ self.weights[1]),
            self.images,
        )
        self.grid = jaxsnn.Grid(
            scales=1.0, threshold=[0.5, 1.0], max_rate=[1000, 500], duration=0.004
        )
        self.file = folder / "sweep.nc"
        self.data = jaxsnn.sweep(
            self.network, self.images, self.labels, self.grid, path=self.file, progress=False
        )
        self.set = types.SimpleNamespace(images=self.images, labels=self.labels)
        self.mlp = networks.FullyConnected((4, 3, 2), dropout=0.0, rngs=nnx.Rngs(0))
        self.recipe = dataclasses.replace(training.RECIPES["fc-authors"], epochs=1, batch_size=2)
        self.output = readout.Output(
            jnp.ones((2, 2)), jnp.ones((2, 2)), jnp.ones(()), jnp.zeros(2, jnp.int32)
        )
        (folder / "text.nc").write_text("no netCDF")
        (folder / "empty.nc").write_bytes(b"")
        (folder / "half.nc").write_bytes(self.file.read_bytes()[: self.file.stat().st_size // 2])
        xr.Dataset({"a": ("b", [1.0])}).to_netcdf(folder / "other.nc", engine="h5netcdf")
        (folder / "a-file").write_text("a file")
        (folder / "a-folder").mkdir()

    def model(self, x):
        for weights in self.weights:
            x = jax.nn.relu(x @ weights)
        return x

    def convolve(self, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.nn.relu(
            lax.conv_general_dilated(x, self.kernel, (1, 1), "VALID", dimension_numbers=numbers)
        )

    def simulate(self, network: Any = None, images: Any = None, **options: Any) -> Any:
        given = {"key": 0, "duration": 0.004, "progress": False} | options
        network = self.snn if network is None else network
        return jaxsnn.simulate(network, self.images if images is None else images, **given)

    def spiking(self, thresholds: Any = 1.0, amplitudes: Any = 1.0) -> Any:
        """A spiking network with some values in its first layer."""
        one = jnp.ones(())
        return jaxsnn.SpikingNetwork(self.network, [thresholds, one], [amplitudes, one])

    def with_weight(self, value: float) -> Any:
        weights = self.weights[0].copy()
        weights[0, 0] = value
        layers = jax.tree.unflatten(jax.tree.structure(self.network), [weights, self.weights[1]])
        return layers


# fmt: off
# -- Values that fit nowhere -----------------------------------------------------------------------

NOTHING = {
    "None": None, "a string": "abc", "a dict": {"a": 1}, "an object": object(),
    "a function": lambda *_: None, "the class FixedPoint": jaxsnn.FixedPoint, "a set": {1, 2},
    "bytes": b"abc", "a module": jax.random,
}
NOT_EVEN_NONE = {name: value for name, value in NOTHING.items() if name != "None"}
NO_NUMBER = NOTHING | {
    "a list": [0.004], "a tuple": (0.004, 0.004), "a numeric string": "0.004",
    "a complex number": 0.004 + 1j, "an array of two": np.array([0.004, 0.004]),
    "an object array": np.array(None), "a masked number": np.ma.masked,
    "a time span": datetime.timedelta(seconds=1), "a tracer": Traced(0.004),
}
NO_WHOLE_NUMBER = {
    name: value for name, value in NO_NUMBER.items() if name not in ("a function", "bytes", "a set")
} | {
    "zero": 0, "minus one": -1, "a fraction": 2.5, "nan": float("nan"), "inf": float("inf"),
    "a bool": True, "a whole float": 2.0, "a tracer": Traced(2),
}
NO_FUNCTION = {
    "a string": "poisson", "a number": 1, "a list": ["poisson"], "a dict": {"a": len},
    "an array": np.ones(2), "a bool": True, "an object": object(),
}
NO_ARRAY = NOTHING | {
    "a tuple": (np.ones((2, 4), "f4"), np.array([0, 1])), "a list of strings": ["a", "b"],
    "ragged lists": [[0.1, 0.2], [0.3]], "a generator": (i for i in range(2)),
}
NO_OBJECT = {
    "None": None, "a string": "abc", "a number": 1, "a list": [1.0], "a dict": {"a": 1},
    "an array": np.ones((2, 4), "f4"), "a function": lambda x: x, "a class": jaxsnn.Network,
    "a bool": True,
}


def bad_pixels(images: np.ndarray) -> dict[str, Any]:
    """Arrays of images that are wrong, from right ones."""
    rest = images.shape[1:]

    def with_first(value: float) -> np.ndarray:
        changed = images.copy()
        changed.flat[0] = value
        return changed

    return {
        "an object array": images.astype(object),
        "an object array of None": np.full(images.shape, None),
        "a string array": images.astype(str),
        "a masked array": np.ma.masked_array(images, images > images.mean()),
        "a complex array": images.astype(np.complex64), "a bool array": images > 0.5,
        "8-bit pixels": (images * 255).astype(np.uint8),
        "64-bit integers": (images * 255).astype(np.int64), "float pixels to 255": images * 255,
        "pixels to 2": images * 2, "a negative pixel": with_first(-0.1),
        "a nan": with_first(np.nan), "an inf": with_first(np.inf), "a huge pixel": with_first(1e30),
        "images minus their mean": images - images.mean(), "no images": images[:0],
        "a single image": images[0], "a number": 0.5, "an array without axes": np.float32(0.5),
        "an axis too many": images[:, None], "a last axis too many": images[..., None],
        "a missing feature": images[..., :-1] if rest[-1] > 1 else images[:, :-1],
        "transposed images": images.T,
        "dates": np.full(images.shape, "2020-01-01", "datetime64[D]"),
        "a structured array": np.zeros(images.shape, [("r", "f4"), ("g", "f4")]),
        "keys": jax.random.split(jax.random.key(0), images.shape),
        "a list of arrays": [images, images],
        "a dataset": types.SimpleNamespace(images=images, labels=np.zeros(len(images), int)),
        "a jaxsnn.Dataset": "Dataset",
    }


def bad_labels(count: int) -> dict[str, Any]:
    """Labels that are wrong for so many samples of two classes."""
    right = np.arange(count) % 2
    return {
        "None": None, "a string": "01", "a dict": {0: 1}, "a number": 1, "a function": len,
        "strings": np.array(["a", "b"] * count)[:count],
        "a list of strings": ["0", "1"] * (count // 2), "fractions": right + 0.5,
        "whole floats": right.astype(float) + 0.25, "negative": right - 1, "below -1": right - 5,
        "nan": np.full(count, np.nan), "inf": np.full(count, np.inf), "bool": right > 0,
        "a list of bools": [True, False] * (count // 2), "out of range": right + 2,
        "huge": right + (1 << 40), "one-hot": np.eye(2)[right], "an axis too many": right[:, None],
        "too many": np.arange(count + 3) % 2, "too few": right[:-1], "none": right[:0],
        "complex": right + 1j, "objects": np.array([None] * count),
        "a list of None": [None] * count, "dates": np.full(count, "2020-01-01", "datetime64[D]"),
        "masked": np.ma.masked_array(right, right > 0), "a set": {0, 1},
    }


# -- The corpus ------------------------------------------------------------------------------------


class Corpus:
    """The cases, collected."""

    def __init__(self, world: World):
        self.world = world
        self.part = ""
        self.cases: list[Case] = []

    def each(
        self,
        group: str,
        argument: str,
        call: Callable[[Any], Any],
        values: dict[str, Any],
        *,
        words: str | None = None,
        expect: str = "error",
        omit: tuple[str, ...] = (),
        forbid: str | None = None,
    ) -> None:
        """A case for each value of an argument; those in `omit` are not wrong here."""
        for label, value in values.items():
            if label not in omit:
                name = f"{group}({argument}={label})"
                pattern = words or rf"\b{argument}"
                self.cases.append(
                    Case(self.part, group, name, self._thunk(call, value), pattern, expect, forbid)
                )

    def one(
        self,
        group: str,
        label: str,
        call: Callable[[], Any],
        words: str,
        expect: str = "error",
        forbid: str | None = None,
    ) -> None:
        """A single case."""
        self.cases.append(Case(self.part, group, f"{group}: {label}", call, words, expect, forbid))

    def _thunk(self, call: Callable[[Any], Any], value: Any) -> Callable[[], Any]:
        if isinstance(value, str) and value == "Dataset":
            world = self.world

            def with_dataset() -> Any:
                return call(jaxsnn.Dataset(world.images, world.labels.astype(np.int32)))

            return with_dataset
        if not isinstance(value, Traced):
            return lambda: call(value)

        def traced() -> Any:
            def inside(number: Any) -> int:
                call(number)
                return 0

            return jax.jit(inside)(value.value)

        return traced


IMAGES = r"image|pixel"


def add_simulate(corpus: Corpus, w: World) -> None:
    def by(name: str, **fixed: Any) -> Callable[[Any], Any]:
        return lambda value: w.simulate(**(fixed | {name: value}))

    each, simulate = corpus.each, "simulate"
    each(
        simulate, "images", lambda v: jaxsnn.simulate(w.snn, v, key=0, duration=0.004),
        bad_pixels(w.images) | NO_ARRAY, words=IMAGES,
    )
    each(
        simulate, "images", lambda v: jaxsnn.simulate(w.snn, v, key=0, duration=0.004),
        {"lists of pixels": w.images.tolist(), "big-endian": w.images.astype(">f4")}, words=IMAGES,
        expect="clear",
    )
    photos = w.photos
    each(
        simulate, "photos", lambda v: jaxsnn.simulate(w.photo_snn, v, key=0, duration=0.004),
        {
            "RGB for gray": np.repeat(photos, 3, -1),
            "8x8 for 6x6": np.pad(photos, ((0, 0), (1, 1), (1, 1), (0, 0))),
            "channels first": photos.transpose(0, 3, 1, 2), "no channel axis": photos[..., 0],
            "a single photo": photos[0], "a flat batch": photos.reshape(2, -1),
        },
        words="channel|height|width|axis|flat|size|reshape",
    )
    each(
        simulate, "network", lambda v: jaxsnn.simulate(v, w.images, key=0, duration=0.004),
        NO_OBJECT
        | {
            "a Network": w.network, "a run": w.run, "a state": w.state, "a model": w.model,
            "an NNX module": w.mlp, "a Linen module": LinenModel(),
            "scale factors": jaxsnn.model_based_scales(w.network),
            "the class SpikingNetwork": jaxsnn.SpikingNetwork, "a FixedPoint": jaxsnn.FixedPoint(),
            "nan weights": jaxsnn.SpikingNetwork(w.with_weight(np.nan), [1.0, 1.0], [1.0, 1.0]),
            "inf weights": jaxsnn.SpikingNetwork(w.with_weight(np.inf), [1.0, 1.0], [1.0, 1.0]),
            "maps at the end": jaxsnn.balance_thresholds(w.maps, 1.0),
        },
        words="network|weights|layer",
    )
    numbers = {
        "zero": 0.0, "negative": -1.0, "nan": np.nan, "complex": 1j, "a string": "1", "None": None,
        "a list": [1.0, 2.0, 3.0, 4.0], "of another shape": np.ones(5),
        "an axis too many": np.ones((2, 3)), "a bool": True, "a dict": {}, "an object": object(),
        "an object array": np.array([None] * 3), "bools": np.array([True] * 3),
        "one nan": np.array([1.0, np.nan, 1.0]), "a function": len,
        "masked": np.ma.masked_array(np.ones(3), [True, False, False]), "inf": np.inf,
        "minus inf": -np.inf, "one inf": np.array([1.0, np.inf, 1.0]),
    }
    each(
        simulate, "thresholds", lambda v: w.simulate(w.spiking(thresholds=v)), numbers,
        words="threshold",
    )
    each(
        simulate, "amplitudes", lambda v: w.simulate(w.spiking(amplitudes=v)), numbers,
        words="amplitude",
    )
    one = jnp.ones(())
    lists = {
        "too few": [one], "too many": [one] * 3, "None": None, "a number": 1.0, "a dict": {},
        "a string": "11", "none": [],
    }
    each(
        simulate, "threshold list",
        lambda v: w.simulate(jaxsnn.SpikingNetwork(w.network, v, [one, one])), lists,
        words="threshold",
    )
    each(
        simulate, "amplitude list",
        lambda v: w.simulate(jaxsnn.SpikingNetwork(w.network, [one, one], v)), lists,
        words="amplitude",
    )
    each(
        simulate, "SpikingNetwork.network",
        lambda v: w.simulate(jaxsnn.SpikingNetwork(v, [one, one], [one, one])),
        {"None": None, "a string": "a", "a model": w.model, "a SpikingNetwork": w.snn},
        words="network",
    )
    each(
        simulate, "key", by("key"),
        NOTHING
        | {
            "a float": 1.5, "a whole float": 1.0, "nan": float("nan"), "minus one": -1,
            "2**32": 1 << 32, "2**40 + 5": (1 << 40) + 5, "2**64": 1 << 64, "-2**40": -(1 << 40),
            "a list": [0], "a batch of keys": jax.random.split(w.key, 2), "a numeric string": "0",
            "three words": np.zeros(3, np.uint32), "one word": np.zeros(1, np.uint32),
            "no words": np.zeros(0, np.uint32), "two raw keys": np.zeros((2, 2), np.uint32),
            "two signed words": np.zeros(2, np.int32), "two floats": np.zeros(2, np.float32),
            "a bool": True, "a complex number": 1j, "a float array": np.float32(0),
            "int64 2**40 + 5": np.int64((1 << 40) + 5), "int64 minus one": np.int64(-1),
            "uint64 2**32": np.uint64(1 << 32), "an array 2**40 + 5": np.array((1 << 40) + 5),
            "an array minus one": np.array(-1), "a numpy bool": np.bool_(True),
            "a numpy generator": np.random.default_rng(0), "nnx.Rngs": nnx.Rngs(0),
            "a traced float": Traced(0.5),
        },
        words=r"\bkey|seed",
    )
    each(
        simulate, "duration", by("duration"),
        NO_NUMBER
        | {
            "zero": 0.0, "negative": -0.1, "nan": np.nan, "inf": np.inf, "half a step": 0.0005,
            "four and a half steps": 0.0045, "a bool": True, "1e9": 1e9, "1e300": 1e300,
            "2**40": 1 << 40, "many": [0.01, 0.02],
        },
        omit=("None",),
    )
    each(
        simulate, "steps", lambda v: jaxsnn.simulate(w.snn, w.images, key=0, steps=v),
        NO_WHOLE_NUMBER, words="steps", omit=("None",),
    )
    each(
        simulate, "duration", by("duration", read=readout.first_spike),
        {"20": 20, "10.001": 10.001}, words="duration.*second", expect="warning",
    )
    each(
        simulate, "dt", by("dt"),
        NO_NUMBER
        | {
            "zero": 0.0, "negative": -0.001, "nan": np.nan, "inf": np.inf, "1e300": 1e300, "1": 1,
            "a bool": True, "1e-300": 1e-300,
        },
    )
    each(
        simulate, "max_rate", by("max_rate"),
        NOTHING
        | {
            "negative": -1.0, "nan": np.nan, "inf": np.inf, "2000": 2000, "1e300": 1e300,
            "a complex number": 1j, "a list": [1000.0], "two rates": np.array([1000.0, 500.0]),
            "a numeric string": "1000", "a bool": True, "an object array": np.array(None),
            "a masked number": np.ma.masked, "one in an array": np.array([1000.0]),
        },
        words="max_rate|rate",
    )
    each(
        simulate, "refractory_period", by("refractory_period"),
        NO_NUMBER
        | {
            "negative": -0.001, "nan": np.nan, "inf": np.inf, "1e300": 1e300, "1e9": 1e9,
            "a bool": True,
        },
    )
    add_functions(corpus, w, by)
    each(
        simulate, "initial_potential", by("initial_potential"),
        NOT_EVEN_NONE
        | {
            "nan": np.nan, "inf": np.inf, "minus inf": -np.inf, "a complex number": 1j,
            "a bool": True, "too few": [0.5], "too many": [0.5, 0.5, 0.5],
            "of another shape": [np.ones(5), 0.5], "an axis too many": [np.ones((2, 3)), 0.5],
            "one nan": [np.nan, 0.5], "one complex": [1j, 0.5], "strings": ["a", "b"],
            "one None": [None, 0.5], "an object array": np.array([None, None]), "no entries": [],
            "masked": np.ma.masked_array(np.ones(2), [True, False]), "bools": [True, False],
            "1e300": 1e300,
        },
        words="initial_potential",
    )
    each(
        simulate, "fixed initial_potential", lambda v: w.simulate(w.fixed, initial_potential=v),
        {
            "nan": np.nan, "inf": np.inf, "a complex number": 1j, "a bool": True, "a string": "a",
            "1e30": 1e30, "a tracer": Traced(0.5), "too many": [0.5] * 3,
        },
        words="initial_potential",
    )
    each(
        simulate, "arithmetic", by("arithmetic"),
        {
            "the class FixedPoint": jaxsnn.FixedPoint, "a string": "int8", "a number": 8,
            "a bool": True, "a list": [8, 8], "a dict": {"bits": 8}, "quantize": jaxsnn.quantize,
            "a fixed network": w.fixed, "a dtype": np.int8,
            "too few bits": jaxsnn.FixedPoint([8] * 3),
        },
        words="arithmetic|bits",
    )
    corpus.one(
        simulate, "arithmetic for a FixedPointNetwork",
        lambda: w.simulate(w.fixed, arithmetic=jaxsnn.FixedPoint(16)), "arithmetic|fixed",
    )
    each(
        simulate, "engine", by("engine"),
        {
            "gpu": "gpu", "None": None, "a number": 1, "a list": ["scan"], "bytes": b"scan",
            "SCAN": "SCAN", "empty": "", "a bool": True, "a function": len, "a dict": {},
        },
    )
    each(
        simulate, "fixed engine", lambda v: w.simulate(w.fixed, engine="events", **v),
        {
            "record": {"record": lambda step: step.spikes[0]},
            "an encoding of mine": {"encode": lambda key, p: (p > 0.5).astype(p.dtype)},
            "a stop rule of mine": {"stop": lambda output, steps: output.first_spike_class >= 0},
        },
        words="engine|events|encod",
    )
    each(
        simulate, "pallas", lambda v: w.simulate(engine="pallas", **v),
        {
            "refractory": {"refractory_period": 0.003},
            "spike": {"spike": jaxsnn.step_function(jaxsnn.fast_sigmoid(3.0))},
        },
        words="engine",
    )
    each(
        simulate, "fixed", lambda v: w.simulate(w.fixed, **v),
        {
            "too many steps": {"duration": 2.0}, "halves": {"encode": lambda key, p: p / 2},
            "a reset of mine": {"reset": lambda v, s, t: v * 0.5},
            "a spike function of mine": {"spike": lambda v, t: (v > t).astype(v.dtype)},
        },
        words="steps|encod|reset|spike",
    )
    add_states(corpus, w)
    each(
        simulate, "samples", by("samples"),
        {
            "floats": [0.5, 1.5], "whole floats": [0.0, 1.0], "too few": [0],
            "too many": [0, 1, 2], "negative": [0, -1], "minus one": -1, "2**40": [0, 1 << 40],
            "2**32": [0, 1 << 32], "2**70": [0, 1 << 70], "strings": ["a", "b"], "a string": "01",
            "a number": 5, "an axis too many": [[0], [1]], "bools": [True, False],
            "None inside": [None, None], "a dict": {0: 1}, "nan": [np.nan] * 2,
            "complex": [0j, 1j], "a function": len, "no entries": [], "an object": object(),
            "uint64 2**40": np.array([0, 1 << 40], np.uint64), "a set": {0, 1},
            "int64 2**33": np.array([0, 1 << 33]), "an object array": np.array([None, 0]),
        },
    )
    for name in ("batch_size", "chunk"):
        each(simulate, name, by(name), NO_WHOLE_NUMBER, omit=("None",))
    for value in ("a string", "a list", "a dict", "an object"):
        each(simulate, "progress", by("progress"), {value: (NOTHING | {"a list": []})[value]})
    each(simulate, "progress", by("progress"), {"2": 2, "a float": 0.5})

    add_traced(corpus, w)


def add_traced(corpus: Corpus, w: World) -> None:
    """What tracing hides from the checks: nan, or no decisions, and no plausible numbers."""

    def accuracy(network: Any, max_rate: Any) -> Any:
        run = w.simulate(network, max_rate=max_rate)
        undecided = (run.predictions == -1).all()
        return jnp.where(undecided, jnp.nan, run.accuracy(w.labels))

    at_rate = jax.jit(lambda rate: accuracy(w.snn, rate))
    at_threshold = jax.jit(lambda threshold: accuracy(w.spiking(thresholds=threshold), 1000.0))
    for value in (2000.0, -5.0, np.nan):
        corpus.one(
            "simulate", f"traced max_rate {value:g}", lambda v=value: at_rate(v), "max_rate", "nan"
        )
    for value in (-1.0, 0.0, np.nan):
        corpus.one(
            "simulate", f"traced threshold {value:g}", lambda v=value: at_threshold(v),
            "threshold", "nan",
        )


def add_functions(corpus: Corpus, w: World, by: Callable[..., Callable[[Any], Any]]) -> None:
    """Functions of the simulation that are none, or that take or return something else."""
    each, simulate = corpus.each, "simulate"
    classes = {"the class FixedPoint": jaxsnn.FixedPoint, "nnx.Module": nnx.Module}
    functions = NO_FUNCTION | classes
    each(
        simulate, "encode", by("encode"),
        functions
        | {
            "one argument": lambda key: key, "three arguments": lambda k, p, t: p,
            "returns None": lambda k, p: None, "another shape": lambda k, p: p[:1],
            "a scalar": lambda k, p: p.sum(), "an axis too many": lambda k, p: p[None],
            "returns a string": lambda k, p: "a", "returns a pair": lambda k, p: (p, p),
            "complex": lambda k, p: p.astype(complex), "a key": lambda k, p: k,
            "a number of it": 0.5, "an array": jaxsnn.poisson(w.key, jnp.ones(4)),
        },
        words="encod",
    )
    each(
        simulate, "reset", by("reset"),
        functions
        | {
            "subtract": "subtract", "subtraction in a list": ["subtraction"],
            "zero": "zero", "one argument": lambda v: v, "returns None": lambda v, s, t: None,
            "another shape": lambda v, s, t: v[:1, :1], "returns a string": lambda v, s, t: "a",
            "a pair": lambda v, s, t: (v, s), "an axis too many": lambda v, s, t: v[None],
            "a scalar": lambda v, s, t: v.sum(), "0": 0, "complex": lambda v, s, t: v + 1j,
        },
        words="reset",
    )
    each(
        simulate, "spike", by("spike"),
        functions
        | {
            "None": None, "a surrogate": jaxsnn.fast_sigmoid(),
            "step_function": jaxsnn.step_function, "returns None": lambda v, t: None,
            "another shape": lambda v, t: v[:1, :1], "an axis too many": lambda v, t: v[None],
            "three arguments": lambda v, t, s: v, "complex": lambda v, t: v + 1j,
            "returns a string": lambda v, t: "a",
        },
        words="spike",
    )
    each(
        simulate, "read", by("read"),
        functions
        | {
            "spike_count": "spike_count", "no arguments": lambda: 1,
            "two arguments": lambda o, t: o.first_spike_class, "returns None": lambda o: None,
            "a scalar": lambda o: jnp.int32(0), "a number of Python": lambda o: 0,
            "floats": lambda o: o.spike_counts.max(1), "two axes": lambda o: o.spike_counts,
            "integers in two axes": lambda o: o.spike_counts.astype(jnp.int32),
            "class 99": lambda o: jnp.full_like(o.first_spike_class, 99),
            "class 2 of 0 and 1": lambda o: jnp.full_like(o.first_spike_class, 2),
            "class -2": lambda o: jnp.full_like(o.first_spike_class, -2),
            "bools": lambda o: o.spike_counts[:, 0] > 0, "returns a string": lambda o: "a",
            "a pair": lambda o: (o.first_spike_class, o.first_spike_class),
            "one sample": lambda o: o.first_spike_class[:1],
            "complex": lambda o: o.potential[:, 0] + 1j, "a missing field": lambda o: o.spikes,
        },
        words="read",
    )
    each(
        simulate, "record", by("record"),
        functions
        | {
            "no arguments": lambda: 1, "two arguments": lambda s, t: s.inputs,
            "a scalar": lambda s: jnp.float32(1), "without samples": lambda s: s.spikes[0].sum(),
            "one sample": lambda s: s.spikes[0][0, 0], "returns a string": lambda s: "a",
            "spikes": "spikes", "the samples last": lambda s: s.spikes[0].T,
        },
        words="record",
    )
    each(
        simulate, "stop", by("stop"),
        functions
        | {
            "margin": stopping.margin, "the class Margin": stopping.Margin, "3": 3, "0.01": 0.01,
            "first_spike": "first_spike", "one argument": lambda o: o.first_spike_class >= 0,
            "returns None": lambda o, t: None, "a scalar": lambda o, t: jnp.array(True),
            "a bool of Python": lambda o, t: False, "two axes": lambda o, t: o.spike_counts > 0,
            "floats": lambda o, t: o.spike_counts[:, 0], "returns a string": lambda o, t: "a",
            "classes": lambda o, t: o.first_spike_class,
            "one sample": lambda o, t: o.first_spike_class[:1] > 0,
            "a missing field": lambda o, t: o.spikes,
        },
        words="stop",
    )


def add_states(corpus: Corpus, w: World) -> None:
    """States of something else."""
    each, simulate = corpus.each, "simulate"
    each(
        simulate, "state", lambda v: w.simulate(state=v),
        {
            "a run": w.run, "a string": "state", "a number": 0, "a list": [w.state],
            "a dict": dataclasses.asdict(w.state), "an array": np.ones((2, 3)), "a network": w.snn,
            "the class": type(w.state), "a function": len, "a pair": (w.state, w.run),
            "a bool": True, "a neuron's state": w.state.neurons,
            "of fixed point": w.simulate(w.fixed).state,
            "of another network": jaxsnn.simulate(
                jaxsnn.balance_thresholds(w.wide, 1.0), w.images, key=0, duration=0.004
            ).state,
            "of other images": w.simulate(None, w.others).state,
            "of another key": w.simulate(key=1).state,
            "of another rate": w.simulate(max_rate=500.0).state,
            "of another dt": w.simulate(dt=0.0005).state,
            "of another refractory period": w.simulate(refractory_period=0.003).state,
            "of another reset": w.simulate(reset=jaxsnn.reset_by_subtraction).state,
            "of another encoding": w.simulate(encode=jaxsnn.constant).state,
            "of other thresholds": w.simulate(jaxsnn.balance_thresholds(w.network, 2.0)).state,
            "of other weights": w.simulate(
                jaxsnn.balance_thresholds(w.with_weight(0.5), 1.0)
            ).state,
            "of more images": w.simulate(None, np.tile(w.images, (2, 1))).state,
            "after exits": w.simulate(stop=stopping.first_spike).state,
        },
        words=r"\bstate",
    )
    each(
        simulate, "state with", lambda v: w.simulate(state=w.state, **v),
        {
            "samples": {"samples": [0, 1]}, "initial_potential": {"initial_potential": 0.5},
            "another dt": {"dt": 0.0005}, "a refractory period": {"refractory_period": 0.002},
            "other arithmetic": {"arithmetic": jaxsnn.FixedPoint()}, "another key": {"key": 5},
            "another rate": {"max_rate": 10.0},
            "another reset": {"reset": jaxsnn.reset_by_subtraction},
            "a nan initial_potential": {"initial_potential": np.nan},
            "another batch": {"images": w.images[:1]},
        },
        words=r"\bstate",
    )


def add_results(corpus: Corpus, w: World) -> None:
    """Methods of a run, and metrics."""
    each = corpus.each
    each("Simulation.accuracy", "labels", w.run.accuracy, bad_labels(2), words="label")
    each(
        "Simulation.first_spike_accuracy", "labels", w.run.first_spike_accuracy, bad_labels(2),
        words="label",
    )
    predictions = np.array([[0, 1], [-1, 1]])
    each(
        "metrics.accuracy", "labels", lambda v: metrics.accuracy(predictions, v), bad_labels(2),
        words="label", omit=("out of range", "huge"),
    )
    each(
        "metrics.accuracy", "predictions", lambda v: metrics.accuracy(v, [0, 1]),
        {
            "None": None, "a string": "01", "a number": 1, "a dict": {}, "strings": ["a", "b"],
            "fractions": [0.5, 1.5], "nan": [np.nan, 1.0], "complex": [0j, 1j],
            "too many": [0, 1, 0], "none": [], "scores": np.array([[0.1, 0.9], [0.8, 0.2]]),
            "bools": [True, False], "a run": w.run, "a function": len,
            "objects": np.array([None, None]), "below -1": [-2, 1],
            "masked": np.ma.masked_array([0, 1], [True, False]),
        },
        words="prediction",
    )
    curve = np.array([0.1, 0.5, 0.9])
    each(
        "metrics.latency", "accuracies", metrics.latency,
        {
            "None": None, "a string": "abc", "a number": 0.5, "a dict": {}, "none": [],
            "nan": [0.1, np.nan, 0.9], "a last nan": [0.1, 0.9, np.nan], "inf": [0.1, np.inf],
            "percent": [10.0, 90.0], "negative": [-0.1, 0.5], "complex": [0.1j, 0.5],
            "an axis too many": np.ones((2, 2)), "strings": ["a"], "objects": np.array([None]),
            "bools": [True, False], "a run": w.run, "a function": len,
            "masked": np.ma.masked_array(curve, [False, False, True]),
        },
        words="accurac",
    )
    for name in ("within", "dt"):
        each(
            "metrics.latency", name, lambda v, n=name: metrics.latency(curve, **{n: v}),
            NO_NUMBER | {"negative": -0.001, "nan": np.nan, "inf": np.inf, "a bool": True},
            omit=("a tracer",),
        )
    each("metrics.latency", "dt", lambda v: metrics.latency(curve, dt=v), {"zero": 0.0})
    each(
        "metrics.latency", "within", lambda v: metrics.latency(curve, within=v),
        {"2": 2.0, "percent": 30},
    )
    for name in ("fan_out", "dense_operations"):
        each(
            f"metrics.{name}", "network", getattr(metrics, name),
            NO_OBJECT | {"a SpikingNetwork": w.snn, "a model": w.mlp, "a run": w.run},
            words="network",
        )
    counts, spikes = jnp.ones((2, 4)), [jnp.ones((2, 3)), jnp.ones((2, 2))]
    operations = metrics.synaptic_operations
    each(
        "metrics.synaptic_operations", "network", lambda v: operations(v, counts, spikes),
        NO_OBJECT | {"a SpikingNetwork": w.snn}, words="network",
    )
    arrays = {
        "None": None, "a string": "a", "a number": 1.0, "of another shape": np.ones((2, 7)),
        "a single sample": np.ones(4), "strings": np.array([["a"] * 4] * 2), "a dict": {},
        "negative": -np.ones((2, 4)), "nan": np.full((2, 4), np.nan),
        "complex": np.ones((2, 4)) * 1j, "other samples": np.ones((3, 4)),
    }
    each(
        "metrics.synaptic_operations", "input_spike_counts",
        lambda v: operations(w.network, v, spikes), arrays, words="input_spike_counts|counts",
    )
    each(
        "metrics.synaptic_operations", "spike_counts", lambda v: operations(w.network, counts, v),
        {
            "None": None, "a string": "ab", "a number": 1.0, "none": [], "too few": spikes[:0],
            "too many": spikes * 2, "of another shape": [np.ones((2, 9)), np.ones((2, 2))],
            "of a None": [None, None], "a run": w.run, "a dict": {"a": 1, "b": 2},
        },
        words="spike_counts|counts",
    )
    each(
        "metrics.operations", "synapses", lambda v: metrics.operations(v, [counts]),
        {
            "None": None, "a string": "a", "a number": 1.0, "none": [],
            "too many": [np.ones(4)] * 2, "of another shape": [np.ones(7)], "of None": [None],
            "of strings": ["a"], "a network": w.network,
        },
        words="synapses",
    )
    each(
        "metrics.operations", "sent", lambda v: metrics.operations([np.ones(4)], v),
        {
            "None": None, "a string": "a", "a number": 1.0, "none": [], "too many": [counts] * 2,
            "of another shape": [np.ones((2, 7))], "of None": [None], "of strings": ["a"],
        },
        words="sent",
    )
    for name in ("__call__", "activations"):
        each(
            f"Network.{name}",
            "images",
            lambda v, n=name: getattr(w.network, n)(v),
            {
                label: value
                for label, value in (bad_pixels(w.images) | NO_ARRAY).items()
                if label
                not in (  # values of any range have activations
                    "float pixels to 255",
                    "pixels to 2",
                    "a negative pixel",
                    "a huge pixel",
                    "images minus their mean",
                    "a nan",
                    "an inf",
                    "no images",
                )
            },
            words=IMAGES,
        )


def add_conversion(corpus: Corpus, w: World) -> None:
    """Scale factors, balancing, fixed point."""
    each = corpus.each
    no_network = NO_OBJECT | {
        "a SpikingNetwork": w.snn, "a FixedPointNetwork": w.fixed, "a model": w.mlp,
        "a run": w.run, "a Linen module": LinenModel(), "a model function": w.model,
    }
    each("model_based_scales", "network", jaxsnn.model_based_scales, no_network, words="network")
    corpus.one(
        "model_based_scales", "no positive weight", lambda: jaxsnn.model_based_scales(w.dead),
        "layer 1",
    )
    corpus.one(
        "model_based_scales", "nan weights",
        lambda: jaxsnn.model_based_scales(w.with_weight(np.nan)), "weights",
    )
    rules = {
        name: getattr(jaxsnn, name)
        for name in (
            "data_based_scales", "data_based_scales_of_authors_code", "percentile_scales",
            "largest_activations",
        )
    }
    for name, rule in rules.items():
        each(name, "network", lambda v, f=rule: f(v, w.images), no_network, words="network")
        each(
            name, "images", lambda v, f=rule: f(w.network, v, progress=False),
            bad_pixels(w.images) | NO_ARRAY, words=IMAGES, expect="warning",
        )
        each(
            name, "images", lambda v, f=rule: f(w.network, v, progress=False),
            {"lists of pixels": w.images.tolist(), "big-endian": w.images.astype(">f4")},
            words=IMAGES, expect="clear",
        )
        each(
            name, "images", lambda v, f=rule: f(w.network, v, progress=False),
            {"a tracer": Traced(w.images)}, words=IMAGES,
        )
        each(
            name, "batch_size",
            lambda v, f=rule: f(w.network, w.images, batch_size=v, progress=False), NO_WHOLE_NUMBER,
        )
        each(
            name, "progress", lambda v, f=rule: f(w.network, w.images, progress=v),
            {"a string": "yes", "a list": [], "2": 2},
        )
        each(
            name, "weights", lambda v, f=rule: f(w.with_weight(v), w.images, progress=False),
            {"nan": np.nan, "inf": np.inf}, words="weights|not finite|nan",
            expect="clear" if name == "largest_activations" else "error",
        )
        if name != "largest_activations":
            corpus.one(name, "a dead layer", lambda f=rule: f(w.dead, w.images), "layer 1")
    each(
        "percentile_scales", "percentile",
        lambda v: jaxsnn.percentile_scales(w.network, w.images, percentile=v, progress=False),
        NO_NUMBER
        | {"zero": 0, "negative": -1, "101": 101, "nan": np.nan, "inf": np.inf, "a bool": True},
    )
    silent = jaxsnn.read_network(
        lambda x: jax.nn.relu(x @ np.array([[1, -1, -1, -1]] * 4, "f4")), w.images
    )
    corpus.one(
        "percentile_scales", "0.999 is no fraction",
        lambda: jaxsnn.percentile_scales(silent, w.images, percentile=0.999), "percent",
        forbid="dead|train again",
    )
    corpus.one(
        "percentile_scales", "a percentile that falls on zero",
        lambda: jaxsnn.percentile_scales(silent, w.images, percentile=20), "percentile",
        forbid="dead|train again",
    )
    corpus.one(
        "data_based_scales", "pixels divided by 255 inside",
        lambda: jaxsnn.data_based_scales(
            jaxsnn.read_network(lambda x: w.model(x / 255.0), w.images), w.images
        ),
        "percentile_scales", "warning",
    )
    scales = {
        "None": None, "a string": "data-based", "a dict": {"a": 1}, "a function": len,
        "a rule": jaxsnn.data_based_scales, "zero": 0.0, "negative": -1.0, "nan": np.nan,
        "inf": np.inf, "a complex number": 1j, "a bool": True, "too few": [1.0],
        "too many": [1.0, 1.0, 1.0], "none": [], "one zero": [1.0, 0.0], "one nan": [np.nan, 1.0],
        "one None": [None, 1.0], "strings": ["a", "b"], "bools": [True, True],
        "complex numbers": [1j, 1j], "of another shape": [np.ones(5), 1.0],
        "an axis too many": [np.ones((2, 3)), 1.0], "objects": np.array([None, None]),
        "a set": {1.0, 2.0}, "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
        "two axes": np.ones((2, 2, 2)), "dates": np.array(["2020", "2021"], "datetime64[Y]"),
        "a network": w.network,
    }
    each(
        "balance_thresholds", "scales", lambda v: jaxsnn.balance_thresholds(w.network, v), scales,
        words="scale",
    )
    each(
        "normalize_weights", "scales", lambda v: jaxsnn.normalize_weights(w.network, v), scales,
        words="scale",
    )
    each(
        "normalize_weights", "scales", lambda v: jaxsnn.normalize_weights(w.network, v),
        {"an array for a layer": [np.ones(3), 1.0]}, words="scale",
    )
    for name in ("balance_thresholds", "normalize_weights"):
        each(
            name, "network", lambda v, n=name: getattr(jaxsnn, n)(v, 1.0), no_network,
            words="network",
        )
    each(
        "quantize", "network", jaxsnn.quantize,
        NO_OBJECT
        | {
            "a Network": w.network, "a FixedPointNetwork": w.fixed, "a model": w.mlp,
            "a run": w.run,
            "nan weights": jaxsnn.SpikingNetwork(w.with_weight(np.nan), [1.0, 1.0], [1.0, 1.0]),
            "a negative threshold": w.spiking(thresholds=-1.0),
            "a nan threshold": w.spiking(thresholds=np.nan),
            "an inf threshold": w.spiking(thresholds=np.inf),
            "a huge threshold": w.spiking(thresholds=1e30),
            "a nan amplitude": w.spiking(amplitudes=np.nan),
            "a zero amplitude": w.spiking(amplitudes=0.0),
            "a negative amplitude": w.spiking(amplitudes=-1.0),
            "a complex amplitude": w.spiking(amplitudes=1j),
            "an inf amplitude": w.spiking(amplitudes=np.inf),
        },
        words="network|weights|threshold|amplitude",
    )
    corpus.one(
        "quantize", "traced weights", lambda: jax.jit(lambda s: jaxsnn.quantize(s))(w.snn),
        "weights|traced",
    )
    uncounted = jaxsnn.read_network(
        lambda x: jax.nn.relu(
            nnx.avg_pool(
                nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False), (2, 2), (2, 2)
            ).reshape(len(x), -1)
            @ np.ones((9, 2), "f4")
        ),
        w.photos,
    )
    corpus.one(
        "quantize", "a pooling that does not count its padding",
        lambda: jaxsnn.quantize(jaxsnn.balance_thresholds(uncounted, 1.0)), "padding|count",
        forbid="scale factor",
    )
    for function, make in (
        ("quantize", lambda **o: jaxsnn.quantize(w.snn, **o)), ("FixedPoint", jaxsnn.FixedPoint),
    ):
        each(
            function, "bits", lambda v, f=make: f(bits=v),
            {
                "4": 4, "32": 32, "0": 0, "-8": -8, "None": None, "a string": "8", "8.5": 8.5,
                "nan": np.nan, "a list of 4": [4, 4], "a list of strings": ["8", "8"],
                "no bits": [], "a dict": {}, "a bool": True, "complex": 8j, "a function": len,
                "a dtype": np.int8, "a tracer": Traced(8), "a list of None": [None, 8],
                "a huge number": 1 << 40, "an object": object(),
            },
        )
        each(
            function, "per", lambda v, f=make: f(per=v),
            {
                "neuron": "neuron", "None": None, "a number": 1, "a list": ["layer"], "empty": "",
                "bytes": b"layer", "a bool": True, "a function": len, "a dict": {},
            },
        )
        each(
            function, "steps", lambda v, f=make: f(steps=v),
            NO_WHOLE_NUMBER | {"2**21": 1 << 21, "2**40": 1 << 40},
        )
    corpus.one(
        "quantize", "bits for three layers", lambda: jaxsnn.quantize(w.snn, bits=[8, 8, 8]), "bits"
    )
    each(
        "FixedPoint.__call__", "network", jaxsnn.FixedPoint(),
        {"None": None, "a Network": w.network, "a string": "a", "a fixed network": w.fixed},
        words="network",
    )


def add_nir(corpus: Corpus, w: World) -> None:
    """Networks to NIR, and graphs from it."""
    each = corpus.each
    no_network = NO_OBJECT | {"a Network": w.network, "a model": w.mlp, "a run": w.run}
    each("to_nir", "network", jaxsnn.to_nir, no_network, words="network")
    each(
        "to_nir", "pooling", lambda v: jaxsnn.to_nir(w.snn, pooling=v),
        {"max": "max", "None": None, "a number": 2, "a list": ["sum"], "a function": np.mean},
    )
    each(
        "to_nir", "allow_lossy", lambda v: jaxsnn.to_nir(w.snn, allow_lossy=v),
        {"None": None, "a string": "yes", "a number": 2},
    )
    each(
        "to_nir", "snn", jaxsnn.to_nir,
        {
            "an infinite threshold": w.spiking(np.inf), "a threshold of 0": w.spiking(0.0),
            "no threshold": w.spiking(None), "a wrong amplitude": w.spiking(1.0, -1.0),
        },
        words="threshold|amplitude",
    )
    graph = jaxsnn.to_nir(w.snn)
    each(
        "from_nir", "graph", jaxsnn.from_nir,
        NO_OBJECT | {"a path": "network.nir", "a network": w.snn, "its nodes": graph.nodes},
    )
    each(
        "from_nir", "input_shape", lambda v: jaxsnn.from_nir(graph, v),
        {
            "another": (5,), "two axes": (2, 2), "none": (), "a number": 4, "a string": "4",
            "negative": (-4,), "a float": (4.5,), "a list of None": [None],
        },
        words="input",
    )
    for argument, values in (
        ("dt", {"0": 0.0, "negative": -1.0, "infinite": np.inf, "nan": np.nan, "a string": "1"}),
        ("encode", NO_FUNCTION),
    ):
        each(
            "from_nir", argument,
            lambda v, a=argument: jaxsnn.from_nir(graph, **{a: v}), values,
        )


def add_neurons(corpus: Corpus, w: World) -> None:
    """The functions that a simulation is made of, called by hand."""
    each = corpus.each
    no_array = {
        "None": None, "a string": "abc", "a dict": {}, "an object": object(), "a function": len,
    }
    for name in ("poisson", "constant"):
        each(
            name, "probability", lambda v, n=name: getattr(jaxsnn, n)(w.key, v), no_array,
            words="probability",
        )
    each(
        "poisson", "key", lambda v: jaxsnn.poisson(v, jnp.ones(2)),
        no_array | {"a number": 0.5, "a batch of keys": jax.random.split(w.key, 3)}, words="key",
    )
    ones = jnp.ones(2)
    for name in ("reset_to_zero", "reset_by_subtraction"):
        function = getattr(jaxsnn, name)
        each(name, "potential", lambda v, f=function: f(v, ones, 1.0), no_array, words="potential")
        each(name, "spikes", lambda v, f=function: f(ones, v, 1.0), no_array, words="spikes")
        if name == "reset_by_subtraction":  # the other has no use for it
            each(
                name, "threshold", lambda v, f=function: f(ones, ones, v), no_array,
                words="threshold",
            )
    each(
        "fast_sigmoid", "slope", jaxsnn.fast_sigmoid,
        {
            "None": None, "a string": "a", "a list": [10.0], "a dict": {}, "nan": np.nan,
            "negative": -1.0, "inf": np.inf, "complex": 1j, "a function": len, "a bool": True,
            "an array of two": np.ones(2), "an object": object(),
        },
        words="slope",
    )
    each(
        "step_function", "surrogate", jaxsnn.step_function,
        {
            "None": None, "a string": "sigmoid", "a number": 1.0, "a list": [1.0], "a dict": {},
            "an array": np.ones(2), "a bool": True,
            "fast_sigmoid without a slope": jaxsnn.fast_sigmoid,
        },
        words="surrogate",
    )
    state = neurons.NeuronState(jnp.zeros((1, 2)), None)
    right = {
        "state": state, "current": jnp.ones((1, 2)), "threshold": jnp.ones(()),
        "reset": neurons.reset_to_zero, "spike": neurons.heaviside,
    }
    for name in right:
        each(
            "integrate_and_fire", name,
            lambda v, n=name: jaxsnn.integrate_and_fire(**(right | {n: v})),
            {
                "None": None,
                "a string": "abc",
                "a dict": {},
                "an object": object(),
                **({"a number": 1} if name in ("state", "reset", "spike") else {}),
            },
            words=name,
        )
    each(
        "integrate_and_fire", "refractory_steps",
        lambda v: jaxsnn.integrate_and_fire(**right, refractory_steps=v),
        {"None": None, "a string": "a", "a dict": {}}, words="refractory_steps",
    )
    signal = jnp.ones((2, 3))
    each(
        "neurons.clip_floor", "x", lambda v: neurons.clip_floor(v, 1.0),
        {"None": None, "a string": "a", "a dict": {}, "an object": object()}, words="x",
    )
    each(
        "neurons.clip_floor", "threshold", lambda v: neurons.clip_floor(signal, v),
        {
            "None": None, "a string": "a", "a dict": {}, "zero": 0.0, "negative": -1.0,
            "nan": np.nan, "inf": np.inf, "of four": np.ones(4), "a list of strings": ["a"],
        },
        words="threshold",
    )
    each(
        "neurons.clip_floor", "levels", lambda v: neurons.clip_floor(signal, 1.0, v),
        {"None": None, "a string": "4", "zero": 0, "negative": -4, "a float": 2.5, "nan": np.nan},
        words="levels",
    )
    for name in ("spike_count", "first_spike", "membrane_potential"):
        each(
            f"readout.{name}", "output", getattr(readout, name),
            {
                "None": None, "an array": jnp.ones((2, 2)), "a string": "a", "a run": w.run,
                "a number": 1, "a dict": {}, "the class Output": readout.Output,
            },
            words="output",
        )
    each(
        "stopping.first_spike", "output", lambda v: stopping.first_spike(v, jnp.array(1)),
        {"None": None, "an array": jnp.ones((2, 2)), "a string": "a", "a number": 3},
        words="output",
    )
    leads = {
        "zero": 0, "minus one": -1, "nan": np.nan, "None": None, "a string": "3", "a list": [3],
        "a dict": {}, "complex": 3j, "a function": len, "a bool": True, "inf": np.inf,
        "an array of two": np.array([1, 2]), "an object": object(),
        "an object array": np.array(None),
    }
    each("stopping.margin", "spikes", stopping.margin, leads, words="margin|spikes")
    each(
        "stopping.margin_over_time", "spikes", lambda v: stopping.margin_over_time(v, every=5),
        leads, words="margin|spikes",
    )
    each(
        "stopping.margin_over_time", "every", lambda v: stopping.margin_over_time(3, every=v),
        leads, words="every",
    )
    each(
        "stopping.Margin", "spikes", lambda v: w.simulate(stop=stopping.Margin(v)),
        {"a string": "3", "None": None, "a list": [3], "nan": np.nan, "complex": 3j},
        words="margin|spikes|stop",
    )


def add_data(corpus: Corpus, w: World) -> None:
    """Datasets and files."""
    each = corpus.each
    labels = w.labels.astype(np.int32)
    wrong = bad_pixels(w.photos)
    ours = {
        k: v
        for k, v in wrong.items()
        if k
        in (
            "an object array", "a string array", "a complex array", "a bool array", "8-bit pixels",
            "64-bit integers", "float pixels to 255", "a negative pixel", "a nan", "an inf",
            "a number", "an array without axes", "a masked array",
        )
    }
    each(
        "Dataset", "images", lambda v: jaxsnn.Dataset(v, labels),
        ours | {"None": None, "a string": "abc", "a dict": {}, "a function": len}, words=IMAGES,
    )
    each(
        "Dataset", "labels", lambda v: jaxsnn.Dataset(w.photos, v), bad_labels(2), words="label",
        omit=("out of range", "huge", "none"),
    )
    each(
        "load_dataset", "name", jaxsnn.load_dataset,
        {
            "None": None, "a number": 1, "cifar1000": "cifar1000", "MNIST": "MNIST", "empty": "",
            "a list": ["mnist"], "a dict": {}, "a path": Path("mnist"), "bytes": b"mnist",
            "a bool": True, "a function": len, "a set": {"mnist"}, "a typo": "fashion-mnist",
        },
        words="name|data set|dataset",
    )
    each(
        "Dataset.from_arrays", "images", lambda v: jaxsnn.Dataset.from_arrays(v, labels),
        {k: v for k, v in ours.items() if k not in ("8-bit pixels", "64-bit integers")}
        | {
            "None": None, "a string": "abc", "a function": len,
            "integers beyond 255": np.full(np.shape(w.photos), 256),
            "negative integers": np.full(np.shape(w.photos), -1),
        },
        words=IMAGES,
    )
    each(
        "Dataset.from_arrays", "labels", lambda v: jaxsnn.Dataset.from_arrays(w.photos, v),
        bad_labels(2), words="label",
        omit=("out of range", "huge", "none", "strings", "a list of strings"),  # names are numbered
    )
    each(
        "Dataset.from_folder", "path", jaxsnn.Dataset.from_folder,
        {
            "None": None, "a number": 1, "no folder": "no/such/folder",
            "empty": w.folder / "a-folder",
            "a file": w.folder / "a-file", "a list": ["a"], "a function": len,
        },
        words="path|folder",
    )
    each(
        "Dataset.from_folder", "size", lambda v: jaxsnn.Dataset.from_folder(w.folder, size=v),
        {"a number": 3, "three": (1, 2, 3), "zero": (0, 3), "floats": (1.5, 2.0), "text": "3x3"},
        words="size",
    )
    each(
        "Dataset.from_folder", "file", lambda v: jaxsnn.Dataset.from_folder(w.folder, file=v),
        {"a number": 3, "in no folder": "no/such/folder/a.npy", "a list": ["a"]},
        words="file|images",
    )
    each(
        "load_dataset", "splits", lambda v: jaxsnn.load_dataset(w.folder, splits=v),
        {"a string": "train", "one": ("train",), "none there": ("a", "b"), "numbers": (1, 2)},
        words="splits",
    )
    each(
        "load_dataset", "archives", lambda v: jaxsnn.load_dataset("mnist", archives=v),
        {
            "no folder": "no/such/folder", "a file": w.folder / "a-file", "a number": 1,
            "a list": ["a"], "a dict": {}, "a bool": True, "a function": len, "a float": 0.5,
        },
        words="archives",
    )
    each(
        "load_dataset", "data_dir", lambda v: jaxsnn.load_dataset("mnist", data_dir=v),
        {
            "a number": 1, "a list": ["a"], "a dict": {}, "a bool": True, "a function": len,
            "a float": 0.5,
        },
        words="data_dir",
    )
    each(
        "load_sweep", "path", jaxsnn.load_sweep,
        {
            "None": None, "a number": 1, "a list": ["a"], "a dict": {}, "a function": len,
            "no file": "no/such/file.nc", "a folder": w.folder / "a-folder",
            "a text": w.folder / "text.nc", "an empty file": w.folder / "empty.nc",
            "half a file": w.folder / "half.nc", "another netCDF": w.folder / "other.nc",
            "empty": "", "a bool": True, "data": w.data,
        },
        words=r"path|\.nc|folder|exist|file",
    )


def add_networks(corpus: Corpus, w: World) -> None:
    """The paper's networks, and training."""
    each = corpus.each
    limits = {
        "None": None, "a string": "0.1", "nan": np.nan, "negative": -0.1, "complex": 1j,
        "a list": [1.0], "a dict": {}, "a function": len, "inf": np.inf, "a bool": True,
        "an array of two": np.ones(2),
    }
    each(
        "networks.symmetric_uniform", "limit",
        lambda v: networks.symmetric_uniform(v)(w.key, (2, 2)), limits, words="limit",
    )
    sizes = {
        "None": None, "a number": 4, "a string": "42", "one": [4], "none": [], "zero": [4, 0],
        "negative": [4, -2], "fractions": [4.5, 2], "whole floats": [4.0, 2.0], "nan": [np.nan, 2],
        "strings": ["4", "2"], "None inside": [4, None], "a dict": {4: 2}, "a function": len,
        "complex": [4j, 2], "bools": [True, True], "huge": [1 << 40, 1 << 40], "a set": {4, 2},
    }
    rngs = lambda: nnx.Rngs(0)  # noqa: E731
    each(
        "FullyConnected", "sizes", lambda v: networks.FullyConnected(v, rngs=rngs()), sizes,
        words="sizes",
    )
    dropout = {
        "None": None, "a string": "0.5", "negative": -0.1, "1": 1.0, "2": 2, "nan": np.nan,
        "complex": 0.5j, "a list": [0.5], "a dict": {}, "a function": len,
        "an array": np.ones(2) / 2, "a bool": True,
    }
    each(
        "FullyConnected", "dropout",
        lambda v: networks.FullyConnected((4, 2), dropout=v, rngs=rngs()), dropout, words="dropout",
    )
    initializers = {
        "None": None, "a string": "he_normal", "a number": 0.1, "a list": [0.1],
        "one argument": lambda k: k, "returns None": lambda k, s, d=None: None,
        "another shape": lambda k, s, d=None: jnp.ones(7), "a factory": nnx.initializers.he_normal,
        "returns a string": lambda k, s, d=None: "a",
    }
    each(
        "FullyConnected", "kernel_init",
        lambda v: networks.FullyConnected((4, 2), kernel_init=v, rngs=rngs()), initializers,
        words="kernel_init",
    )
    no_rngs = {
        "None": None, "a string": "0", "a key": w.key, "a list": [0], "the class Rngs": nnx.Rngs,
        "a dict": {"params": 0}, "a float": 0.5, "a bool": True, "a function": len,
    }
    each(
        "FullyConnected", "rngs", lambda v: networks.FullyConnected((4, 2), rngs=v), no_rngs,
        words="rngs",
    )
    images = {
        "None": None, "a string": "a", "of another size": np.ones((2, 5), "f4"), "a dict": {},
        "a number": 1.0, "a function": len, "strings": np.array([["a"] * 4]),
        "objects": np.array([[None] * 4]), "a dataset": w.set,
    }
    each("FullyConnected.__call__", "images", w.mlp, images, words=IMAGES + "|inputs")
    each("FullyConnected.logits", "images", w.mlp.logits, images, words=IMAGES + "|inputs")
    conv = lambda **o: networks.ConvNet(  # noqa: E731
        **({"image_shape": (6, 6, 1), "maps": (2,), "kernel": 3, "classes": 2, "rngs": rngs()} | o)
    )
    each(
        "ConvNet", "image_shape", lambda v: conv(image_shape=v),
        {
            "None": None, "two axes": (6, 6), "four axes": (1, 6, 6, 1), "a number": 6,
            "a string": "661", "zero": (0, 0, 1), "negative": (-6, 6, 1), "fractions": (6.5, 6, 1),
            "odd sides": (7, 7, 1), "too small": (2, 2, 1), "None inside": (6, None, 1),
            "a dict": {}, "an image": w.photos[0], "whole floats": (6.0, 6.0, 1.0),
            "strings": ("6", "6", "1"),
        },
        words="image_shape|convolution|maps of",
    )
    each(
        "ConvNet", "maps", lambda v: conv(maps=v),
        {
            "None": None, "a number": 2, "a string": "2", "zero": (0,), "negative": (-2,),
            "fractions": (2.5,), "strings": ("2",), "None inside": (None,), "a dict": {},
            "whole floats": (2.0,), "nan": (np.nan,), "too many": (2, 2, 2),
        },
        words="maps|convolution",
    )
    for name in ("kernel", "classes"):
        each(
            "ConvNet", name, lambda v, n=name: conv(**{n: v}),
            {
                "None": None, "zero": 0, "negative": -1, "a fraction": 2.5, "a string": "3",
                "a pair": (3, 3), "nan": np.nan, "a dict": {}, "a whole float": 3.0,
                "a function": len, "a bool": True,
            },
            words=name,
        )
    each("ConvNet", "dropout", lambda v: conv(dropout=v), dropout, words="dropout")
    each("ConvNet", "rngs", lambda v: conv(rngs=v), no_rngs, words="rngs")
    photo_model = conv()
    each(
        "ConvNet.__call__", "images", photo_model,
        {
            "None": None, "a string": "a", "of another size": np.ones((2, 8, 8, 1), "f4"),
            "no channels": w.photos[..., 0], "one image": w.photos[0], "a number": 1.0,
            "a dict": {},
        },
        words=IMAGES,
    )
    for name in ("squared_error", "one_sided_squared_error", "cross_entropy"):
        loss = getattr(training, name)
        group = f"training.{name}"
        each(
            group, "model", lambda v, f=loss: f(v, w.images, w.labels),
            {"None": None, "a string": "a", "a number": 1, "a float": 3.5, "a list": [w.mlp]},
            words="model",
        )
        each(
            group, "labels", lambda v, f=loss: f(w.mlp, jnp.asarray(w.images), v),
            {
                "None": None, "a string": "01", "a dict": {}, "a function": len,
                "strings": np.array(["a", "b"]),
            },
            words="label",
        )
        each(
            group, "images", lambda v, f=loss: f(w.mlp, v, jnp.asarray(w.labels)),
            {"None": None, "a string": "01", "a dict": {}, "a function": len}, words=IMAGES,
        )
    for name in ("shift", "distortion", "elastic"):
        each(
            "training.random_warp", name, lambda v, n=name: training.random_warp(**{n: v}),
            {
                "None": None, "a string": "a", "nan": np.nan, "a list": [1.0], "complex": 1j,
                "a dict": {}, "inf": np.inf, "negative": -1.0, "a function": len,
            },
            words=name,
        )
    each(
        "training.random_warp", "cells", lambda v: training.random_warp(cells=v, elastic=1.0),
        {
            "None": None, "a string": "4", "zero": 0, "negative": -1, "a fraction": 2.5,
            "a list": [4],
        },
        words="cells",
    )
    each(
        "training.random_crop_and_flip", "padding",
        lambda v: training.random_crop_and_flip(padding=v),
        {
            "None": None, "a string": "4", "negative": -1, "a fraction": 2.5, "a list": [4],
            "nan": np.nan, "a bool": True, "a function": len,
        },
        words="padding",
    )
    add_deep_networks(corpus, no_rngs)
    add_training(corpus, w)


def add_deep_networks(corpus: Corpus, no_rngs: dict[str, Any]) -> None:
    """The networks with batch norm."""
    each = corpus.each
    resnet = lambda **o: deep_networks.ResNet(  # noqa: E731
        **({"image_shape": (4, 4, 3), "maps": (2,), "blocks": 1, "rngs": nnx.Rngs(0)} | o)
    )
    vgg = lambda **o: deep_networks.VGG(  # noqa: E731
        **({"image_shape": (4, 4, 3), "stages": ((2,),), "rngs": nnx.Rngs(0)} | o)
    )
    shapes = {
        "None": None, "two axes": (4, 4), "four axes": (1, 4, 4, 3), "a number": 4,
        "a string": "443", "zero": (0, 0, 3), "negative": (-4, 4, 3), "fractions": (4.5, 4, 3),
        "None inside": (4, None, 3), "a dict": {}, "other channels": (4, 4, 1),
    }
    constants = {
        "None": None, "a number": 0.5, "a string": "abc", "too few": (0.5,), "a dict": {},
        "strings": ("a", "b", "c"), "nan": (0.5, np.nan, 0.5), "None inside": (0.5, None, 0.5),
        "a function": len, "infinite": (0.5, np.inf, 0.5),
    }
    counts = {
        "None": None, "zero": 0, "negative": -1, "a fraction": 2.5, "a string": "3", "nan": np.nan,
        "a pair": (3, 3), "a bool": True,
    }
    for name, build in (("ResNet", resnet), ("VGG", vgg)):
        each(
            name, "image_shape", lambda v, b=build: b(image_shape=v), shapes,
            words="image_shape|channels",
        )
        for part in ("mean", "std"):
            each(name, part, lambda v, b=build, p=part: b(**{p: v}), constants, words=part)
        each(name, "classes", lambda v, b=build: b(classes=v), counts, words="classes")
        each(name, "rngs", lambda v, b=build: b(rngs=v), no_rngs, words="rngs")
    each("ResNet", "blocks", lambda v: resnet(blocks=v), counts, words="blocks")
    each(
        "ResNet", "maps", lambda v: resnet(maps=v),
        {
            "None": None, "a number": 2, "a string": "2", "none": (), "zero": (0,), "fewer": (4, 2),
            "negative": (-2,), "fractions": (2.5,), "None inside": (None,), "a dict": {},
        },
        words="maps",
    )
    each(
        "VGG", "stages", lambda v: vgg(stages=v),
        {
            "None": None, "a number": 2, "a string": "2", "none": (), "one empty": ((2,), ()),
            "numbers": (2, 2), "zero": ((0,),), "fractions": ((2.5,),), "too many": ((2,),) * 3,
            "strings": ("2", "2"), "a dict": {}, "None inside": ((None,),),
        },
        words="stages",
    )
    each(
        "VGG.__call__", "images", vgg(),
        {
            "None": None, "a string": "a", "of another size": np.ones((2, 8, 8, 3), "f4"),
            "no channels": np.ones((2, 4, 4), "f4"), "a number": 1.0, "a dict": {},
            "complex": np.ones((2, 4, 4, 3), complex),
        },
        words=IMAGES,
    )


def add_training(corpus: Corpus, w: World) -> None:
    each = corpus.each

    def data(images: Any = None, labels: Any = None) -> Any:
        return types.SimpleNamespace(
            images=w.images if images is None else images,
            labels=w.labels if labels is None else labels,
        )

    no_set = {
        "None": None, "a string": "mnist", "images": w.images, "a tuple": (w.images, w.labels),
        "a dict": {"images": w.images, "labels": w.labels}, "a number": 1, "a list": [1],
        "a function": len, "the class Dataset": jaxsnn.Dataset, "a bool": True,
    }
    broken_sets = {
        "no samples": data(w.images[:0], w.labels[:0]),
        "strings for labels": data(labels=np.array(["a", "b"])),
        "float labels": data(labels=np.array([0.5, 1.0])),
        "labels out of range": data(labels=np.array([0, 9])),
        "negative labels": data(labels=np.array([0, -1])),
        "one-hot labels": data(labels=np.eye(2)), "too few labels": data(labels=np.array([0])),
        "bool labels": data(labels=np.array([True, False])),
        "nan labels": data(labels=np.array([0, np.nan])),
        "8-bit pixels": data((w.images * 255).astype(np.uint8)),
        "pixels to 255": data(w.images * 255), "nan pixels": data(np.full((2, 4), np.nan, "f4")),
        "images of another size": data(np.ones((2, 5), "f4")),
        "strings for images": data(np.array([["a"] * 4] * 2)),
        "objects": data(np.full((2, 4), None)), "complex images": data(w.images + 1j),
        "a number for images": data(0.5),
        "None for labels": types.SimpleNamespace(images=w.images, labels=None),
        "None for images": types.SimpleNamespace(images=None, labels=w.labels),
    }
    about_data = r"set|images|labels|pixels|train|test|dataset|model"
    small = ("8-bit pixels", "pixels to 255", "nan pixels")  # a function may take any numbers
    each(
        "training.accuracy", "dataset", lambda v: training.accuracy(w.mlp, v), no_set | broken_sets,
        words=about_data, omit=small,
    )
    each(
        "training.accuracy", "model", lambda v: training.accuracy(v, w.set),
        {
            "None": None, "a string": "a", "a number": 1, "a list": [1],
            "a class": networks.FullyConnected, "a function of none": lambda: 1,
            "returns None": lambda x: None, "returns a scalar": lambda x: 1.0,
            "returns classes": lambda x: jnp.zeros(len(x), int),
            "returns one score": lambda x: jnp.ones((1, 2)),
            "returns nan": lambda x: jnp.full((len(x), 2), jnp.nan),
            "a Linen module": LinenModel(), "a SpikingNetwork": w.snn, "a run": w.run,
            "returns strings": lambda x: "ab", "a dict": {},
        },
        words="model",
    )
    each(
        "training.accuracy", "batch_size", lambda v: training.accuracy(w.mlp, w.set, batch_size=v),
        NO_WHOLE_NUMBER,
    )

    def fit(model: Any = None, train: Any = None, **options: Any) -> Any:
        model = (
            networks.FullyConnected((4, 3, 2), dropout=0.0, rngs=nnx.Rngs(0))
            if model is None
            else model
        )
        given = {"recipe": w.recipe, "progress": False} | options
        return training.fit(model, w.set if train is None else train, **given)

    each(
        "training.fit", "model", lambda v: training.fit(v, w.set, recipe=w.recipe, progress=False),
        {
            "None": None, "a string": "a", "a number": 1, "a function": w.model,
            "a Network": w.network, "a class": networks.FullyConnected,
            "a Linen module": LinenModel(), "a list": [], "a dict": {}, "a SpikingNetwork": w.snn,
            "of other sizes": networks.FullyConnected((5, 2), rngs=nnx.Rngs(0)),
            "without a call": nnx.Dict(), "without logits": nnx.Linear(4, 2, rngs=nnx.Rngs(0)),
        },
        words="model",
    )
    each(
        "training.fit", "train", lambda v: training.fit(w.mlp, v, recipe=w.recipe, progress=False),
        no_set | broken_sets, words=about_data,
    )
    each(
        "training.fit", "test", lambda v: fit(test=v), no_set | broken_sets, words=about_data,
        omit=("None",),
    )
    each(
        "training.fit", "recipe", lambda v: fit(recipe=v),
        {
            "None": None, "a name": "fc-modern", "a number": 1, "the class": training.Recipe,
            "a dict": {}, "a list": [], "a function": len, "all recipes": training.RECIPES,
        },
        words="recipe",
    )
    bad = {
        "epochs": {
            "negative": -1, "a fraction": 1.5, "nan": np.nan, "None": None, "a string": "1",
            "a list": [1], "inf": np.inf, "a bool": True,
        },
        "batch_size": {
            "zero": 0, "negative": -1, "a fraction": 1.5, "None": None, "a string": "2",
            "too many": 100, "nan": np.nan, "a list": [2],
        },
        "optimizer": {
            "None": None, "a string": "sgd", "a number": 0.1, "returns None": lambda s: None,
            "no arguments": lambda: None, "returns a number": lambda s: 0.1,
        },
        "loss": {
            "None": None, "a string": "mse", "a number": 1, "one argument": lambda m: m,
            "returns None": lambda m, x, y: None, "returns no scores": lambda m, x, y: m(x).mean(),
            "returns a vector": lambda m, x, y: (m(x), m(x)),
            "a constant": lambda m, x, y: ("a", m(x)),
        },
        "augment": {
            "None": None, "a string": "warp", "a number": 1, "one argument": lambda x: x,
            "returns None": lambda k, x: None, "another shape": lambda k, x: x[:, :1],
            "returns a string": lambda k, x: "a",
        },
    }
    for name, values in bad.items():
        each(
            "training.Recipe", name,
            lambda v, n=name: fit(recipe=dataclasses.replace(w.recipe, **{n: v})), values,
            words=rf"{name}|recipe|fewer than one batch",
        )
    each(
        "training.fit", "seed", lambda v: fit(seed=v),
        {
            "negative": -1, "2**32": 1 << 32, "2**40": 1 << 40, "a float": 1.5, "None": None,
            "a string": "0", "a key": w.key, "a list": [0], "nan": np.nan, "a bool": True,
            "2**70": 1 << 70, "a dict": {},
        },
        words="seed",
    )
    each(
        "training.fit", "checkpoint", lambda v: fit(checkpoint=v),
        {
            "a number": 1, "a list": ["a"], "a dict": {}, "a bool": True, "a function": len,
            "a file": w.folder / "a-file", "below a file": w.folder / "a-file" / "x",
        },
        words="checkpoint|folder",
    )
    each(
        "training.fit", "progress", lambda v: fit(progress=v),
        {"a string": "yes", "a list": [], "2": 2},
    )


def add_reading(corpus: Corpus, w: World) -> None:
    """Models that cannot be read, and what is no model."""
    each, read = corpus.each, jaxsnn.read_network
    example = w.images
    rngs = nnx.Rngs(0)
    each(
        "read_network", "model", lambda v: read(v, example),
        {
            "None": None, "a string": "model", "a number": 1, "a list": [w.mlp], "a dict": {},
            "an array": np.ones((4, 2)), "a float": 3.5, "a class": networks.FullyConnected,
            "an unbound Linen module": LinenModel(), "the class of a Linen module": LinenModel,
            "a SpikingNetwork": w.snn, "a FixedPointNetwork": w.fixed, "a run": w.run,
            "no arguments": lambda: 1, "two arguments": lambda x, y: x,
            "returns None": lambda x: None, "returns a string": lambda x: "a",
            "returns a constant": lambda x: jnp.ones((len(x), 2)),
            "returns two": lambda x: (jax.nn.relu(x), x),
            "returns a dict": lambda x: {"out": jax.nn.relu(x), "in": x},
            "returns a scalar": lambda x: jax.nn.relu(x).sum(),
            "returns NumPy": lambda x: np.maximum(np.asarray(x), 0),
            "a parameter tree": {"params": {"kernel": np.ones((4, 2))}}, "a bool": True,
            "a module without a call": nnx.Dict(), "the identity": lambda x: x,
            "a method that is missing": lambda x: x.forward(),
        },
        words="model|Linen|ReLU|images|output|array|instance|batch",
    )
    each(
        "read_network", "example", lambda v: read(w.model, v),
        NO_ARRAY
        | {
            "a single image": w.images[0], "a shape": (1, 4), "integers": np.ones((1, 4), int),
            "8-bit pixels": np.ones((1, 4), np.uint8), "bools": np.ones((1, 4), bool),
            "complex": np.ones((1, 4), complex), "a number": 0.5, "objects": np.full((1, 4), None),
            "strings": np.array([["a"] * 4]), "of another size": np.ones((1, 5), "f4"),
            "a dataset": w.set, "dates": np.full((1, 4), "2020", "datetime64[Y]"),
            "no features": np.ones((1, 0), "f4"),
            "masked": np.ma.masked_array(w.images, w.images > 0.5),
        },
        words="example|image|model",
    )
    corpus.one(
        "read_network", "x[0] of photos",
        lambda: read(
            lambda x: jax.nn.relu(w.convolve(x).reshape(len(x), -1) @ w.dense), w.photos[0]
        ),
        "example|batch|image",
    )
    corpus.one(
        "read_network", "x[0] of a model with a mean",
        lambda: read(
            lambda x: jax.nn.relu(x.reshape(x.shape[0], -1).mean(1, keepdims=True)),
            np.zeros((0, 4), "f4")[:, :0],
        ),
        "example|batch|image",
    )
    weights = w.weights[0]
    relu = jax.nn.relu
    functions = {
        "tanh": (lambda x: jnp.tanh(x @ weights), "tanh"),
        "sigmoid": (lambda x: jax.nn.sigmoid(x @ weights), "logistic|sigmoid"),
        "gelu": (lambda x: jax.nn.gelu(x @ weights), "ReLU"),
        "softmax": (lambda x: jax.nn.softmax(relu(x @ weights)), "softmax"),
        "elu": (lambda x: jax.nn.elu(x @ weights), "ReLU"),
        "silu": (lambda x: jax.nn.silu(x @ weights), "ReLU"),
        "argmax": (lambda x: relu(x @ weights).argmax(-1), "argmax|class"),
        "a square": (lambda x: relu((x @ weights) ** 2), "linear|integer_pow|square"),
        "a product": (lambda x: relu(x @ weights) * relu(x @ weights), "linear"),
        "an infinite bias": (lambda x: relu(x @ weights + np.inf), "NaN|infinite"),
        "a mean over the batch": (lambda x: relu((x - x.mean(0)) @ weights), "batch"),
        "flattened with the batch": (
            lambda x: relu(x.reshape(-1) @ np.ones((12, 2), "f4")), "batch|images",
        ),
        "a sum over the batch": (lambda x: relu(x.sum(0, keepdims=True) @ weights), "batch"),
        "the batch moved": (lambda x: relu((x @ weights).T), "batch"),
        "a python if": (lambda x: relu(x @ weights) if x.sum() > 0 else x, "model|value|traced"),
        "float()": (lambda x: relu(x @ weights) * float(x.sum()), "model|value|traced"),
        "numpy inside": (
            lambda x: relu(jnp.asarray(np.asarray(x) @ weights)), "model|numpy|traced",
        ),
        "wrong sizes inside": (lambda x: relu(x @ np.ones((7, 2), "f4")), "model"),
        "nan weights": (lambda x: relu(x @ (weights * np.nan)), "NaN|weights"),
        "dropout in training": (
            lambda x: nnx.Dropout(0.5, rngs=rngs)(relu(x @ weights)), "dropout|random|eval",
        ),
        "random numbers": (
            lambda x: relu(x @ weights) * jax.random.uniform(jax.random.key(0), (len(x), 3)),
            "random",
        ),
        "a sort": (lambda x: jnp.sort(relu(x @ weights)), "sort"),
        "a rounding": (lambda x: jnp.round(relu(x @ weights)), "round"),
        "integers": (lambda x: relu(x @ weights).astype(int), "integer|int|round"),
        "a scan": (
            lambda x: lax.scan(lambda c, _: (relu(c @ np.eye(4, dtype="f4")), None), x, None, 3)[0],
            "scan|unroll|loop",
        ),
        "a fori_loop": (
            lambda x: lax.fori_loop(0, 3, lambda i, c: relu(c @ np.eye(4, dtype="f4")), x),
            "scan|unroll|loop",
        ),
        "a while_loop": (
            lambda x: lax.while_loop(lambda c: c.sum() < 1, lambda c: relu(c * 2), x),
            "while|unroll|loop",
        ),
        "a cond": (lambda x: lax.cond(x.sum() > 0, relu, lambda c: c, x), "cond|batch"),
        "a standardisation": (
            lambda x: relu(jax.nn.standardize(x @ weights)), "norm|linear|standard",
        ),
        "a division by a signal": (lambda x: relu(1 / (x @ weights + 0.0)), "divid|linear"),
        "no relu": (lambda x: x @ weights, "ReLU"),
        "a cumulative sum": (lambda x: relu(jnp.cumsum(x @ weights, -1)), "cumsum|cum|unsupported"),
        "complex weights": (lambda x: relu((x @ (weights * 1j)).real), "complex|real|unsupported"),
        "an fft": (lambda x: relu(jnp.fft.fft(x).real @ np.ones((4, 2), "f4")), "fft|unsupported"),
        "a lookup": (lambda x: relu(weights[x[:, 0].astype(int)]), "round|int|gather|lookup"),
        "one-hot of the input": (
            lambda x: relu(jax.nn.one_hot(x[:, 0], 4) @ weights),
            "slice|linear|eq|unsupported|crop",
        ),
        "attention": (
            lambda x: relu((x[:, :, None] * x[:, None, :]) @ np.ones((4, 2), "f4")),
            "linear|several|copy",
        ),
        "a log": (lambda x: relu(jnp.log(x) @ weights), "log"),
        "a softplus": (lambda x: jax.nn.softplus(x @ weights), "ReLU|softmax|log"),
        "where": (lambda x: jnp.where(x @ weights > 0.5, x @ weights, 0), "ReLU|chosen|gt"),
        "stochastic depth": (
            lambda x: relu(x @ weights) * jax.random.bernoulli(jax.random.key(1)), "random",
        ),
    }
    for label, (model, words) in functions.items():
        expect = "clear" if label in ("a scan", "a fori_loop") else "error"  # or unrolled
        corpus.one("read_network", label, lambda m=model: read(m, example), words, expect)
    photos = w.photos
    bound = LinenNorm()
    variables = bound.init(jax.random.key(0), example, False)
    variables = jax.tree.map(lambda a: a + 0.25, variables)
    dropout = LinenDropout()
    kept = dropout.init(jax.random.key(0), example, False)
    drop = r"train=False|deterministic|dropout"
    numbers = ("NHWC", "HWIO", "NHWC")

    def around(x):
        return lax.conv_general_dilated(x, w.kernel, (1, 1), "SAME", dimension_numbers=numbers)

    modules = {
        "Linen batch norm in training": (
            lambda x: bound.apply(variables, x, True), example,
            "train=False|use_running_average|batch ?norm",
        ),
        "Linen without train": (bound.bind(variables), example, "train"),
        "Linen dropout without an rng": (dropout.bind(kept), example, drop),
        "Linen dropout with an rng": (
            dropout.bind(kept, rngs={"dropout": w.key}), example, drop + "|random",
        ),
        "Linen without variables": (LinenModel().bind({}), example, "model|param|variables|kernel"),
        "Linen apply without params": (
            lambda x: LinenModel().apply({}, x), example, "model|param|variables",
        ),
        "nnx batch norm in training": (
            lambda x: nnx.BatchNorm(4, rngs=nnx.Rngs(0))(x), example,
            "eval|batch ?norm|ReLU|shift|batch",
        ),
        "layer norm": (
            Sequential(
                nnx.Linear(4, 3, use_bias=False, rngs=rngs), nnx.LayerNorm(3, rngs=rngs), nnx.relu
            ),
            example, "norm|linear",
        ),
        "group norm": (
            Sequential(
                nnx.Conv(1, 2, (3, 3), use_bias=False, rngs=rngs),
                nnx.GroupNorm(2, num_groups=1, rngs=rngs), nnx.relu,
            ),
            photos, "norm",
        ),
        "an LSTM": (
            lambda x: nnx.RNN(nnx.LSTMCell(4, 3, rngs=nnx.Rngs(0)))(x[:, None]), example,
            "scan|loop|unroll|logistic|model",
        ),
        "an embedding": (
            Sequential(nnx.Embed(4, 3, rngs=rngs), nnx.relu), example, "model|int|gather|embed",
        ),
        "causal padding": (
            Sequential(nnx.Conv(1, 2, (3,), padding="CAUSAL", use_bias=False, rngs=rngs), nnx.relu),
            np.zeros((1, 8, 1), "f4"), "pad|causal",
        ),
        "a convolution over frames": (
            Sequential(nnx.Conv(1, 2, (3, 3), use_bias=False, rngs=rngs), nnx.relu),
            np.zeros((1, 5, 6, 6, 1), "f4"), "batch|frames|axes|axis",
        ),
        "boolean frames": (w.model, np.zeros((1, 4), bool), "bool|float"),
        "gray photos for a colour model": (
            Sequential(nnx.Conv(3, 2, (3, 3), use_bias=False, rngs=rngs), nnx.relu), photos,
            "model|images|channel",
        ),
        "a model on channels first": (
            w.convolve, photos.transpose(0, 3, 1, 2), "model|images|channel",
        ),
        "a transposed convolution of the batch": (
            lambda x: relu(
                lax.conv_general_dilated(
                    x.transpose(3, 1, 2, 0), np.ones((3, 3, 3, 2), "f4"), (1, 1), "SAME",
                    dimension_numbers=numbers,
                )
            ),
            photos, "batch",
        ),
        "a missing attribute": (lambda x: w.mlp.nothing(x), example, "model|nothing"),
        "an int model": (lambda x: (x @ w.weights[0]).astype(jnp.int32), example, "int|ReLU"),
    }
    for label, (model, images, words) in modules.items():
        expect = "clear" if label in ("causal padding",) else "error"
        forbid = r"use_bias=False" if "batch norm" in label else None
        corpus.one(
            "read_network", label, lambda m=model, x=images: read(m, x), words, expect, forbid
        )
    corpus.one(
        "read_network", "training mode read by a function",
        lambda: read(lambda x: networks.FullyConnected((4, 3, 2), rngs=nnx.Rngs(0))(x), example),
        "random|eval|dropout",
    )


def add_grids(corpus: Corpus, w: World) -> None:
    each = corpus.each

    def grid(**options: Any) -> Any:
        return jaxsnn.Grid(**({"scales": 1.0, "duration": 0.004} | options))

    each(
        "Grid", "scales", lambda v: grid(scales=v),
        {
            "None": None, "a string": "data-based", "zero": 0, "negative": -1.0, "nan": np.nan,
            "inf": np.inf, "complex": 1j, "a bool": True, "an object": object(), "no scales": [],
            "no rules": {}, "strings": ["a", "b"], "lists": [[1.0, 1.0], [2.0, 2.0]],
            "None inside": [None], "a set": {1.0}, "objects": np.array([None, None]),
            "one zero": [1.0, 0.0], "one nan": [np.nan, 1.0], "a named None": {"a": None},
            "a named string": {"a": "b"}, "a named zero": {"a": 0.0}, "a named nan": {"a": np.nan},
            "a named list of strings": {"a": ["b"]},
            "a rule twice": [jaxsnn.model_based_scales] * 2, "bytes": b"a",
            "a named bool": {"a": True}, "bools": [True, False],
        },
        words="scale",
    )
    each(
        "Grid", "threshold", lambda v: grid(threshold=v),
        {
            "None": None, "a string": "1", "zero": 0.0, "negative": -1.0, "nan": np.nan,
            "inf": np.inf, "complex": 1j, "a dict of strings": {"a": "b"},
            "a dict of None": {"a": None}, "no thresholds": [], "twice": [1.0, 1.0],
            "strings": ["a", "b"], "one zero": [0.0, 1.0], "an object": object(),
            "objects": np.array([None]), "a function": len, "three axes": np.ones((2, 2, 2)),
            "a bool": True, "bools": [True, False], "a set": {1.0, 2.0}, "no rules": {},
            "bytes": b"1", "a list of None": [None, 1.0],
        },
        words="threshold",
    )
    numbers = {
        "None": None, "a string": "1", "negative": -1.0, "nan": np.nan, "inf": np.inf,
        "complex": 1j, "a dict": {"a": 1}, "none": [], "strings": ["a", "b"],
        "two axes": np.ones((2, 2)), "an object": object(), "a function": len, "a bool": True,
        "None inside": [None, 1.0], "a set": {1.0}, "one nan": [np.nan, 0.001],
        "a tracer": Traced(0.001), "dates": np.array("2020", "datetime64[Y]"),
        "masked": np.ma.masked_array([0.001, 0.002], [True, False]),
    }
    each(
        "Grid", "max_rate", lambda v: grid(max_rate=v),
        numbers | {"2000": 2000, "twice": [500, 500], "one too high": [500, 2000], "1e300": 1e300},
        words="max_rate",
    )
    each(
        "Grid", "dt", lambda v: grid(dt=v),
        numbers
        | {
            "zero": 0.0, "twice": [0.001, 0.001], "1e300": 1e300, "1e-300": 1e-300,
            "not a divisor": 0.003,
        },
        words=r"\bdt\b",
    )
    each(
        "Grid", "refractory_period", lambda v: grid(refractory_period=v),
        numbers | {"1e300": 1e300, "1e9": 1e9, "twice": [0.002, 0.002]}, words="refractory_period",
    )
    each(
        "Grid", "duration", lambda v: grid(duration=v),
        numbers
        | {"zero": 0.0, "1e9": 1e9, "1e300": 1e300, "half a step": 0.0005, "twice": [0.01, 0.01]},
        words="duration",
    )
    each(
        "Grid", "duration", lambda v: grid(duration=v), {"20": 20, "many to 20": [1, 20]},
        words="duration.*second", expect="warning",
    )
    each(
        "Grid", "seed", lambda v: grid(seed=v),
        {
            "None": None, "a string": "0", "negative": -1, "2**32": 1 << 32, "2**40": 1 << 40,
            "a float": 1.5, "nan": np.nan, "a key": w.key, "a dict": {}, "none": [],
            "twice": [0, 0], "strings": ["0"], "a bool": True, "two axes": [[0, 1]],
            "2**70": 1 << 70, "an object": object(), "a function": len, "None inside": [None],
            "a set": {0, 1}, "bools": [True, False], "complex": 1j, "one negative": [0, -1],
            "a tracer": Traced(0),
        },
        words="seed",
    )
    each(
        "Grid", "reset", lambda v: grid(reset=v),
        {
            "None": None, "a string": "zero", "subtract": "subtract",
            "subtraction in a list": ["subtraction"], "a number": 0, "no resets": [],
            "twice": [jaxsnn.reset_to_zero] * 2, "a named string": {"a": "zero"}, "no names": {},
            "an array": np.ones(2), "None inside": [None], "a bool": True, "an object": object(),
            "a named None": {"a": None}, "the class FixedPoint": jaxsnn.FixedPoint,
        },
        words="reset",
    )


def add_sweeps(corpus: Corpus, w: World) -> None:
    each = corpus.each
    add_grids(corpus, w)
    cheap = jaxsnn.Grid(scales=1.0, duration=0.004)

    def sweep(
        network: Any = None,
        images: Any = None,
        labels: Any = None,
        grid: Any = None,
        **options: Any,
    ) -> Any:
        return jaxsnn.sweep(
            w.network if network is None else network,
            w.images if images is None else images,
            w.labels if labels is None else labels,
            cheap if grid is None else grid,
            **({"progress": False} | options),
        )

    def raw(place: int) -> Callable[[Any], Any]:
        arguments = [w.network, w.images, w.labels, cheap]
        return lambda v: jaxsnn.sweep(
            *arguments[:place], v, *arguments[place + 1 :], progress=False
        )

    each(
        "sweep", "network", raw(0),
        NO_OBJECT
        | {
            "a SpikingNetwork": w.snn, "a FixedPointNetwork": w.fixed, "a model": w.mlp,
            "a run": w.run, "maps at the end": w.maps, "nan weights": w.with_weight(np.nan),
            "inf weights": w.with_weight(np.inf),
        },
        words="network|weights|layer",
    )
    each("sweep", "images", raw(1), bad_pixels(w.images) | NO_ARRAY, words=IMAGES)
    each(
        "sweep", "images", raw(1),
        {"lists of pixels": w.images.tolist(), "big-endian": w.images.astype(">f4")}, words=IMAGES,
        expect="clear",
    )
    each("sweep", "labels", raw(2), bad_labels(2), words="label")
    each(
        "sweep", "grid", raw(3),
        NO_OBJECT
        | {
            "the class Grid": jaxsnn.Grid, "settings": {"scales": 1.0, "threshold": [1.0]},
            "scales": 1.0, "a rule": jaxsnn.data_based_scales, "data": w.data,
        },
        words="grid",
    )
    needs = jaxsnn.Grid(scales=jaxsnn.data_based_scales, duration=0.004)
    calibration = bad_pixels(w.images) | NO_ARRAY
    each(
        "sweep", "calibration", lambda v: sweep(grid=needs, calibration=v), calibration,
        words=IMAGES + "|calibration",
    )
    for label, scales in {
        "of another length": [1.0, 1.0, 1.0], "zero in one": [1.0, 0.0],
        "of another shape": [np.ones(7), 1.0], "a rule that returns None": lambda n: None,
        "a rule that returns a string": lambda n: "a", "a rule that returns nan": lambda n: np.nan,
        "a rule that returns zeros": lambda n: [0.0, 0.0],
        "a rule that returns three": lambda n: [1.0] * 3,
        "a rule that returns complex": lambda n: 1j, "a rule of none": lambda: 1.0,
        "a rule of three": lambda n, x, y: 1.0, "a class": jaxsnn.FixedPoint,
        "a rule that returns a bool": lambda n: True,
        "a rule that returns objects": lambda n: np.array([None, None]),
    }.items():
        corpus.one(
            "sweep", f"scales {label}",
            lambda s=scales: sweep(
                grid=jaxsnn.Grid(scales=s, duration=0.004), calibration=w.images
            ),
            "scale|rule|calibration",
        )
    for label, threshold in {"of another length": [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]}.items():
        corpus.one(
            "sweep", f"threshold rows {label}",
            lambda t=threshold: sweep(grid=jaxsnn.Grid(scales=1.0, threshold=t, duration=0.004)),
            "threshold",
        )
    functions = NO_FUNCTION | {"the class FixedPoint": jaxsnn.FixedPoint}
    each(
        "sweep", "encode", lambda v: sweep(encode=v),
        functions
        | {
            "None": None, "one argument": lambda k: k, "returns None": lambda k, p: None,
            "another shape": lambda k, p: p[:1], "a scalar": lambda k, p: p.sum(),
            "returns a string": lambda k, p: "a",
        },
        words="encod",
    )
    each(
        "sweep", "read", lambda v: sweep(read=v),
        functions
        | {
            "no arguments": lambda: 1, "returns None": lambda o: None,
            "a scalar": lambda o: jnp.int32(0), "floats": lambda o: o.spike_counts.max(1),
            "two axes": lambda o: o.spike_counts,
            "class 99": lambda o: jnp.full_like(o.first_spike_class, 99),
            "returns a string": lambda o: "a", "bools": lambda o: o.spike_counts[:, 0] > 0,
            "a name": "first_spike", "class -2": lambda o: jnp.full_like(o.first_spike_class, -2),
            "a pair": lambda o: (o.first_spike_class,) * 2,
        },
        words="read",
    )
    for label, reset in {
        "one argument": lambda v: v, "returns None": lambda v, s, t: None,
        "another shape": lambda v, s, t: v[:1, :1], "returns a string": lambda v, s, t: "a",
    }.items():
        corpus.one(
            "sweep", f"a reset with {label}",
            lambda r=reset: sweep(grid=jaxsnn.Grid(scales=1.0, reset=r, duration=0.004)), "reset",
        )
    each(
        "sweep", "arithmetic", lambda v: sweep(arithmetic=v),
        {
            "the class FixedPoint": jaxsnn.FixedPoint, "a string": "int8", "a number": 8,
            "a bool": True, "a list": [8], "quantize": jaxsnn.quantize, "a fixed network": w.fixed,
            "bits of three": jaxsnn.FixedPoint([8] * 3), "a dict": {},
        },
        words="arithmetic|bits",
    )
    each(
        "sweep", "engine", lambda v: sweep(engine=v),
        {
            "gpu": "gpu", "None": None, "a number": 1, "a list": ["scan"], "SCAN": "SCAN",
            "a bool": True, "a dict": {},
        },
        words="engine",
    )
    taken = jaxsnn.Grid(scales=1.0, duration=0.005)
    each(
        "sweep", "path", lambda v: sweep(path=v),
        {
            "a number": 1, "a list": ["a"], "a dict": {}, "a bool": True, "a function": len,
            "a float": 0.5, "no folder": w.folder / "no" / "x.nc",
            "a folder": w.folder / "a-folder", "below a file": w.folder / "a-file" / "x.nc",
            "a text file": w.folder / "text.nc", "an empty file": w.folder / "empty.nc",
            "half a file": w.folder / "half.nc", "another netCDF": w.folder / "other.nc",
            "another sweep": w.file,
        },
        words="path|folder|sweep|file",
    )
    corpus.one("sweep", "path of another duration", lambda: sweep(grid=taken, path=w.file), "sweep")
    each(
        "sweep", "memory", lambda v: sweep(memory=v), NO_WHOLE_NUMBER | {"10": 10}, words="memory",
        omit=("None",),
    )
    each(
        "sweep", "mesh", lambda v: sweep(mesh=v),
        {
            "a string": "cpu", "a number": 1, "a list": [jax.devices()[0]],
            "devices": np.array(jax.devices()), "other axes": jax.make_mesh((1,), ("x",)),
            "a dict": {}, "a bool": True, "a tuple": (1, 1),
        },
        words="mesh",
    )
    each(
        "sweep", "progress", lambda v: sweep(progress=v), {"a string": "yes", "a list": [], "2": 2}
    )
    add_choices(corpus, w)


def add_choices(corpus: Corpus, w: World) -> None:
    each, best = corpus.each, jaxsnn.best
    no_data = NO_OBJECT | {
        "a path": "sweep.nc", "an empty dataset": xr.Dataset(), "a data array": w.data.accuracy,
        "another dataset": xr.Dataset({"a": ("b", [1.0])}), "a run": w.run, "a grid": w.grid,
        "a jaxsnn.Dataset": "Dataset",
    }
    each("best", "data", lambda v: best(v, time=0.004), no_data, words=r"\bdata")
    for name in ("time", "operations", "accuracy"):
        each(
            "best", name, lambda v, n=name: best(w.data, **{n: v}),
            {
                "a string": "0.01", "a list": [0.01], "nan": np.nan, "inf": np.inf,
                "negative": -1.0, "zero": 0.0, "complex": 1j, "a dict": {},
                "an array of two": np.ones(2), "a function": len, "a bool": True,
            },
            words=f"{name}|operations",
        )
    each(
        "best", "time", lambda v: best(w.data, time=v),
        {"10": 10, "beyond the data": 0.5, "too soon": 1e-6},
        words="time.*second|second.*time|nearest",
    )
    each(
        "best", "accuracy", lambda v: best(w.data, accuracy=v), {"percent": 98.0}, words="accuracy"
    )
    corpus.one("best", "too few operations", lambda: best(w.data, operations=1e-3), "operations")
    each(
        "best", "goal", lambda v: best(w.data, goal=v),
        {
            "a word": "speed", "a number": 1, "a list": ["time"], "operations": "operations",
            "empty": "", "a bool": True, "a dict": {}, "a function": len,
        },
        words="goal",
    )
    front = sweeps.pareto_front
    values = {
        "None": None, "a string": "abc", "too few": [0.5], "nan": [np.nan, 0.5], "a number": 0.5,
        "a dict": {}, "complex": [1j, 0.5], "two axes": np.ones((2, 2)), "strings": ["a", "b"],
        "None inside": [None, 0.5], "a function": len, "objects": np.array([None, None]),
    }
    each("pareto_front", "cost", lambda v: front(v, [0.5, 0.6]), values, words="cost")
    each("pareto_front", "accuracy", lambda v: front([1.0, 2.0], v), values, words="accurac")
    draw = sweeps.plotting
    plots = {
        "plot_map": draw.plot_map, "plot_curves": draw.plot_curves, "plot_pareto": draw.plot_pareto,
    }
    figures = {
        "a string": "figure", "a number": 1, "axes": matplotlib.figure.Figure().subplots(),
        "a dict": {}, "a bool": True, "the class": matplotlib.figure.Figure,
    }
    names = {
        "None": None, "a number": 1, "a list": ["threshold"], "no dimension": "color",
        "time": "time", "empty": "", "a dict": {}, "a bool": True, "a function": len,
    }
    along = {"plot_curves": {"along": "threshold"}, "plot_pareto": {"along": "threshold"}}
    for name, plot in plots.items():
        group = f"sweeps.plotting.{name}"
        options = along.get(name, {})
        each(group, "data", lambda v, f=plot, o=options: f(v, **o), no_data, words=r"\bdata")
        each(
            group, "figure", lambda v, f=plot, o=options: f(w.data, **o, figure=v), figures,
            words="figure",
        )
        for axis in ("x", "y") if name == "plot_map" else ("along",):
            each(
                group, axis, lambda v, f=plot, a=axis: f(w.data, **{a: v}), names,
                words=rf"\b{axis}\b|dimension",
            )
    each(
        "sweeps.plotting.plot_map", "time", lambda v: draw.plot_map(w.data, time=v),
        {
            "a string": "0.001", "nan": np.nan, "negative": -1.0, "not there": 0.0015,
            "beyond": 10, "a list": [0.001], "a dict": {}, "complex": 1j, "inf": np.inf,
            "a bool": True, "a function": len, "zero": 0.0,
        },
        words="time",
    )
    corpus.one(
        "sweeps.plotting.plot_map", "x and y the same",
        lambda: draw.plot_map(w.data, x="threshold"), r"\bx\b",
    )
    each(
        "sweeps.plotting.plot_pareto", "cost",
        lambda v: draw.plot_pareto(w.data, along="threshold", cost=v),
        {
            "None": None, "a word": "energy", "a number": 1, "a list": ["time"], "a dict": {},
            "empty": "",
        },
        words="cost",
    )


def add_plots(corpus: Corpus, w: World) -> None:
    each = corpus.each
    times = [0.001, 0.002, 0.003]
    curve = [0.1, 0.5, 0.9]
    accuracy = plotting.plot_accuracy
    each(
        "plotting.plot_accuracy", "curves", lambda v: accuracy(v, times),
        {
            "None": None, "an array": np.array(curve), "a list": curve, "a string": "abc",
            "no curves": {}, "an empty curve": {"a": []}, "a run": w.run,
            "percent": {"a": [10.0, 50.0, 90.0]}, "nan": {"a": [np.nan] * 3}, "a number": 0.5,
            "a curve of None": {"a": None}, "a curve of a number": {"a": 0.5},
            "too long": {"a": [0.5] * 9}, "strings": {"a": ["b", "c", "d"]},
            "three axes": {"a": np.ones((3, 2, 1))}, "mixed": {"a": curve, "b": {"c": curve}},
            "a function": len, "complex": {"a": [1j] * 3}, "a curve of a string": {"a": "abc"},
            "negative": {"a": [-0.1] * 3}, "an empty panel": {"a": {}}, "a set": {1},
            "a dataset": w.data, "a named run": {"a": w.run},
        },
        words="curve|accurac",
    )
    each(
        "plotting.plot_accuracy", "times", lambda v: accuracy({"a": curve}, v),
        {
            "None": None, "a string": "abc", "a number": 0.1, "too few": [0.001],
            "zero": [0.0, 0.001, 0.002], "negative": [-1.0, 0.1, 0.2], "nan": [np.nan] * 3,
            "strings": ["a", "b", "c"], "a dict": {"b": times}, "none": [],
            "two axes": np.ones((3, 1)), "complex": [1j] * 3, "a function": len,
            "inf": [np.inf] * 3, "a run": w.run, "falling": [0.003, 0.002, 0.001],
        },
        words="time",
    )
    each(
        "plotting.plot_accuracy", "relu_accuracy",
        lambda v: accuracy({"a": curve}, times, relu_accuracy=v),
        {
            "a string": "a", "percent": 98.0, "nan": np.nan, "negative": -0.1, "a list": [0.9, 0.8],
            "a dict": {"b": 0.9}, "complex": 1j, "a function": len, "inf": np.inf, "a run": w.run,
        },
        words="relu_accuracy|accuracy",
    )
    figures = {
        "a string": "figure", "a number": 1, "axes": matplotlib.figure.Figure().subplots(),
        "a dict": {}, "a bool": True, "the class": matplotlib.figure.Figure,
    }
    each(
        "plotting.plot_accuracy", "figure", lambda v: accuracy({"a": curve}, times, figure=v),
        figures, words="figure",
    )
    layers = [np.ones((5, 3)), np.eye(5)[:, 1:]]
    raster = plotting.plot_raster
    each(
        "plotting.plot_raster", "spikes", raster,
        {
            "None": None, "a string": "abc", "a number": 1, "an array": layers[0], "none": [],
            "one layer": layers[:1], "other steps": [layers[0], np.ones((4, 2))],
            "no steps": [np.ones((0, 3)), np.ones((0, 2))], "a run": w.run,
            "of None": [None, None], "of strings": ["a", "b"], "a dict": {"a": layers[0]},
            "a function": len, "string arrays": [np.array([["a"]]), np.array([["b"]])],
            "of numbers": [1.0, 2.0], "nan": [np.full((5, 3), np.nan), layers[1]],
            "potentials": [layers[0] * 0.37, layers[1] * 0.41],
            "complex": [layers[0] * 1j, layers[1]],
        },
        words="spikes",
    )
    record = w.simulate(record=lambda step: [step.inputs, *step.spikes]).records
    corpus.one(
        "plotting.plot_raster", "all samples of a record", lambda: raster(record),
        r"sample|\[:, 0\]", "warning",
    )
    each(
        "plotting.plot_raster", "dt", lambda v: raster(layers, dt=v),
        NO_NUMBER | {"zero": 0.0, "negative": -0.001, "nan": np.nan, "inf": np.inf, "a bool": True},
        omit=("a tracer",),
    )
    names = {
        "too few": ["a"], "a number": 1, "a dict": {}, "of None": [None, None], "a function": len,
    }
    each("plotting.plot_raster", "names", lambda v: raster(layers, names=v), names, words="names")
    each(
        "plotting.plot_raster", "image", lambda v: raster(layers, image=v),
        {
            "a string": "a", "a number": 1, "a batch": w.photos, "one axis": np.ones(4),
            "four channels": np.ones((6, 6, 4)), "a dict": {}, "strings": np.array([["a"]]),
            "objects": np.array([[None]]), "no pixels": np.ones((0, 0)),
            "complex": np.ones((2, 2)) * 1j, "a function": len, "nan": np.full((2, 2), np.nan),
        },
        words="image",
    )
    each(
        "plotting.plot_raster", "max_neurons", lambda v: raster(layers, max_neurons=v),
        NO_WHOLE_NUMBER, omit=("a tracer",),
    )
    each(
        "plotting.plot_raster", "figure", lambda v: raster(layers, figure=v), figures,
        words="figure",
    )
    rates = plotting.plot_rates
    right = {"activations": [[[0.0, 1.0, 2.0]]], "spike_counts": [[[0, 5, 9]]], "scales": [2.0]}
    wrong = {
        "None": None, "a number": 1.0, "a string": "a", "none": [], "too many": [[[0, 1, 2]]] * 2,
        "of another shape": [[[0, 1]]], "of None": [None], "of strings": ["a"],
        "nan": [[[np.nan] * 3]], "a dict": {"a": 1}, "a function": len, "complex": [[[1j] * 3]],
        "a run": w.run, "inf": [[[np.inf] * 3]], "negative": [[[-1, -2, -3]]],
    }
    for name in ("activations", "spike_counts"):
        each(
            "plotting.plot_rates", name, lambda v, n=name: rates(**(right | {n: v}), steps=10),
            wrong, words=name.replace("_", "[_ ]"),
        )
    each(
        "plotting.plot_rates", "scales", lambda v: rates(**(right | {"scales": v}), steps=10),
        {
            "None": None, "a string": "a", "none": [], "too many": [1.0, 2.0],
            "zero": [0.0], "nan": [np.nan], "negative": [-1.0], "of None": [None],
            "of strings": ["a"], "complex": [1j], "a dict": {"a": 1}, "a function": len,
            "inf": [np.inf],
        },
        words="scale",
    )
    each(
        "plotting.plot_rates", "steps", lambda v: rates(**right, steps=v), NO_WHOLE_NUMBER,
        omit=("a tracer",),
    )
    corpus.one(
        "plotting.plot_rates", "fewer steps than spikes", lambda: rates(**right, steps=3), "steps"
    )
    each(
        "plotting.plot_rates", "names", lambda v: rates(**right, steps=10, names=v),
        {"too many": ["a", "b"], "a number": 1, "a dict": {}, "of None": [None], "a function": len},
        words="names",
    )
    each(
        "plotting.plot_rates", "figure", lambda v: rates(**right, steps=10, figure=v), figures,
        words="figure",
    )


def add_command_lines(corpus: Corpus, w: World) -> None:
    """Command lines, with a small network in place of the trained ones."""
    folder = w.folder
    sweep = {
        "--network mlp": "network", "--network": "network", "--recipe best": "recipe",
        "--scales mine": "scales", "--scales data-based data-based": "scales",
        "--scales": "scales|rule", "--percentile 0": "percentile", "--percentile 101": "percentile",
        "--percentile -1": "percentile", "--percentile nan": "percentile",
        "--percentile abc": "percentile", "--percentile 99 99": "percentile",
        "--percentile inf": "percentile", "--threshold 0": "threshold",
        "--threshold -1": "threshold", "--threshold nan": "threshold",
        "--threshold inf": "threshold", "--threshold abc": "threshold", "--threshold": "threshold",
        "--threshold 1 1": "threshold", "--max-rate 2000": "max_rate", "--max-rate -1": "max_rate",
        "--max-rate nan": "max_rate", "--max-rate inf": "max_rate", "--max-rate abc": "max-rate",
        "--max-rate": "max_rate", "--max-rate 500 500": "max_rate", "--dt 0": r"\bdt",
        "--dt -1": r"\bdt", "--dt nan": r"\bdt", "--dt inf": r"\bdt", "--dt abc": r"\bdt",
        "--dt 1e-300": r"\bdt", "--dt 0.003": r"\bdt", "--dt 1e300": r"\bdt",
        "--refractory-period -1": "refractory_period",
        "--refractory-period nan": "refractory_period",
        "--refractory-period inf": "refractory_period",
        "--refractory-period abc": "refractory-period",
        "--refractory-period 1e300": "refractory_period",
        "--refractory-period": "refractory_period", "--reset none": "reset",
        "--reset zero zero": "reset", "--reset subtract": "reset", "--reset": "reset",
        "--seed -1": "seed", "--seed 4294967296": "seed", "--seed 1.5": "seed",
        "--seed abc": "seed", "--seed 1 1": "seed", "--seed": "seed",
        "--seed 99999999999999999999": "seed", "--duration 0": "duration",
        "--duration -1": "duration", "--duration nan": "duration", "--duration inf": "duration",
        "--duration 1e9": "duration", "--duration 0.0505": "duration", "--duration abc": "duration",
        "--duration 1e300": "duration", "--duration 0.1 0.2": "duration|argument|0.2",
        "--images 0": "images", "--images -1": "images", "--images 10001": "images",
        "--images 1.5": "images", "--images abc": "images", "--images nan": "images",
        "--bits 4": "bits", "--bits 32": "bits", "--bits abc": "bits", "--bits 8.0": "bits",
        "--engine gpu": "engine", "--memory 10": "memory",
        "--memory -1": "memory", "--memory 0": "memory", "--memory nan": "memory",
        "--memory abc": "memory", "--memory 1.5": "memory", f"--output {folder}/no/x.nc": "folder",
        f"--output {folder}/a-folder": "folder|output", f"--output {folder}/a-file/x.nc": "folder",
        f"--output {folder}/text.nc": "text.nc", f"--output {folder}/other.nc": "other.nc",
        f"--output {folder}/sweep.nc": "sweep", f"--archives {folder}/none": "archives|folder",
        f"--archives {folder}/a-file": "archives|folder",
        f"--cache {folder}/a-file": "cache|folder|a-file", "--epochs 3": "epochs", "mnist": "mnist",
        "--threshold 1 --threshold": "threshold", "--images 5 --output": "output",
    }
    for line, words in sweep.items():
        corpus.one(
            "python -m jaxsnn sweep", _label(w, line), _command(w, ["sweep", *line.split()]), words
        )
    corpus.one(
        "python -m jaxsnn sweep", "--bits 8 --duration 2000",
        _command(w, ["sweep", "--bits", "8", "--duration", "2000"]), "duration|steps|seconds",
        forbid=r"FixedPoint\(|quantize\(",
    )
    long = "sweep --duration 20 --images 1 --threshold 1 --max-rate 1000"
    corpus.one(
        "python -m jaxsnn sweep", "--duration 20",
        _command(w, long.split()),
        "duration.*second", "warning",
    )
    reproduce = {
        "--networks mlp": "networks", "--networks": "network", "--recipe best": "recipe",
        "--images 0": "images", "--images -1": "images", "--images 10001": "images",
        "--images abc": "images", "--seed -1": "seed", "--seed 4294967296": "seed",
        "--seed 1099511627781": "seed", "--seed 1.5": "seed", "--seed abc": "seed",
        "--bits 4": "bits", "--bits": "bits", "--engine gpu": "engine",
        f"--output {folder}/a-file": "output|folder|a-file",
        f"--output {folder}/a-file/x": "output|folder|a-file",
        f"--archives {folder}/none": "archives|folder",
        f"--archives {folder}/a-file": "archives|folder", "--full yes": "full|yes",
        "--duration 1": "duration", "conv": "conv", "--images 1.5": "images",
        "--dataset cifar": "dataset", "--dataset cifar10 --bits 4": "bits",
        "--dataset cifar10 --networks fc": "networks", "--networks vgg11": "networks",
        "--dataset cifar10 --recipe authors": "recipe",
    }
    for line, words in reproduce.items():
        corpus.one(
            "python -m jaxsnn reproduce", _label(w, line),
            _command(w, ["reproduce", *line.split()]), words,
        )
    file = str(folder / "sweep.nc")
    plot = {
        "": "file", "none.nc": "none.nc", f"{folder}": "folder|directory|file",
        f"{folder}/text.nc": "text.nc", f"{folder}/empty.nc": "empty.nc",
        f"{folder}/half.nc": "half.nc", f"{folder}/other.nc": "other.nc",
        f"{file} --x color --along color": "parameter", f"{file} --select color=red": "color",
        f"{file} --select threshold": "threshold", f"{file} --select threshold=": "threshold",
        f"{file} --select threshold=9": "threshold", f"{file} --select =": "parameter",
        f"{file} --select time=0.001": "time|parameter",
        f"{file} --output {folder}/a-file": "output|folder|a-file",
        f"{file} --output {folder}/a-file/x": "output|folder|a-file",
        f"{file} --format pdf": "format", f"{file} {file}": "argument|sweep.nc",
        f"{file} --x": r"--x", f"{file} --select threshold=abc": "threshold",
    }
    for line, words in plot.items():
        corpus.one(
            "python -m jaxsnn plot", _label(w, line) or "no file",
            _command(w, ["plot", *line.split()]), words,
        )
    convert = {
        "": "model|required", "train.py": "train:", "a:b": "module", "os:none": "none",
        "os:path": "model|data", "os.path:join": "model|data", "os:popen": "model|data",
        "os.path:relpath --weights none": "weights",
        "os:getcwd --weights none": "weights", "os:getcwd --steps 0": "steps",
        "os:getcwd --bits 4": "bits", "os:getcwd --percentile 0": "percentile",
        f"os:getcwd --output {folder}/a-file": "a-file",
    }
    for line, words in convert.items():
        corpus.one(
            "python -m jaxsnn convert", _label(w, line) or "no model",
            _command(w, ["convert", *line.split(), "--data", str(folder / "none")]), words,
        )
    for line, words in {
        "": "reproduce", "train": "train", "--bits 8": "bits|command|argument",
        "sweep sweep": "sweep", "SWEEP": "SWEEP",
    }.items():
        corpus.one("python -m jaxsnn", line or "no command", _command(w, line.split()), words)


def _label(w: World, line: str) -> str:
    return line.replace(str(w.folder), "FOLDER")


def _command(w: World, arguments: list[str]) -> Callable[[], Any]:
    """The command line in this process, with small data and networks."""

    def call() -> None:
        import jaxsnn.paper.reproduce
        import jaxsnn.paper.sweep_command
        from jaxsnn.__main__ import main

        numbers = np.random.default_rng(3)
        images = numbers.uniform(0, 1, (120, 28, 28, 1)).astype("f4")
        data = jaxsnn.Dataset(images, (np.arange(120) % 10).astype(np.int32))
        weights = numbers.uniform(0, 0.1, (784, 10)).astype("f4")
        network = jaxsnn.read_network(
            lambda x: jax.nn.relu(x.reshape(x.shape[0], -1) @ weights), images[:1]
        )
        trained = {
            sys.modules["jaxsnn.paper.sweep_command"]: "trained_network",
            sys.modules["jaxsnn.paper.reproduce"]: "trained_model",
        }
        real = {module: dict(vars(module)) for module in trained}
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as place:
            try:
                os.chdir(place)
                for module, function in trained.items():
                    if "--archives" not in arguments:
                        module.load_dataset = lambda *_, **__: (data, data)
                    if "--cache" not in arguments:
                        setattr(module, function, lambda *_, **__: network)
                main(arguments)
            finally:
                os.chdir(before)
                for module, function in trained.items():
                    module.load_dataset = real[module]["load_dataset"]
                    setattr(module, function, real[module][function])

    return call


# fmt: on
def add_interchange(corpus: Corpus, w: World) -> None:
    """Files and events."""
    each = corpus.each
    paths = {
        "None": None,
        "a number": 1,
        "a list": ["a"],
        "a dict": {},
        "a function": len,
        "a bool": True,
        "empty": "",
        "a folder": w.folder / "a-folder",
        "a network": w.snn,
    }
    each(
        "save",
        "path",
        lambda v: jaxsnn.save(v, w.snn),
        {**paths, "no folder": "no/such/folder/a.safetensors"},
        words="path",
    )
    each(
        "load",
        "path",
        jaxsnn.load,
        {
            **paths,
            "no file": "no/such/file",
            "a text": w.folder / "text.nc",
            "an empty file": w.folder / "empty.nc",
            "a sweep": w.file,
        },
        words="path|exist|no file|cannot be loaded",
    )
    each(
        "save",
        "network",
        lambda v: jaxsnn.save("a-network", v),
        {
            "None": None,
            "a string": "a",
            "a function": len,
            "a model": w.mlp,
            "a run": w.run,
            "layers": w.network.layers,
            "a list": [w.network],
            "weights": w.weights[0],
        },
        words="network",
    )
    custom = {
        "a number": 1,
        "a function": len,
        "a list": [len],
        "of numbers": {"a": 1},
        "of a name that is taken": {"Dense": len},
        "a string": "a",
    }
    each("save", "custom", lambda v: jaxsnn.save("b", w.snn, custom=v), custom, words="custom")
    each("load", "custom", lambda v: jaxsnn.load(w.file, custom=v), custom, words="custom")
    spikes, times = np.ones((2, 1, 3)), [0.001, 0.002]
    each(
        "to_events",
        "spikes",
        lambda v: jaxsnn.to_events(v, times),
        {
            "None": None,
            "a string": "a",
            "a number": 1,
            "one axis": np.ones(2),
            "nan": spikes * np.nan,
            "potentials": spikes / 3,
            "complex": spikes * 1j,
            "other steps": np.ones((3, 1, 2)),
            "a run": w.run,
            "a function": len,
        },
        words="spikes",
    )
    moments = {
        "None": None,
        "a string": "a",
        "a number": 0.001,
        "falling": [0.002, 0.001],
        "nan": [0.001, np.nan],
        "two axes": [times],
        "none": [],
        "a function": len,
    }
    each("to_events", "times", lambda v: jaxsnn.to_events(spikes, v), moments, words="times")
    events = jaxsnn.to_events(spikes, times)
    each(
        "from_events",
        "times",
        lambda v: jaxsnn.from_events(events, v, (1, 3)),
        moments,
        words="times",
    )
    each(
        "from_events",
        "events",
        lambda v: jaxsnn.from_events(v, times, (1, 3)),
        {"None": None, "a list": [], "spikes": spikes, "another": np.zeros(2, [("t", "f8")])},
        words="events",
    )
    each(
        "from_events",
        "shape",
        lambda v: jaxsnn.from_events(events, times, v),
        {
            "None": None,
            "a number": 3,
            "a string": "13",
            "one axis": (3,),
            "zero": (0, 3),
            "negative": (1, -3),
            "fractions": (1, 2.5),
            "too few": (1, 2),
            "of strings": ("a", "b"),
        },
        words="shape",
    )


PARTS = {
    "simulate": add_simulate,
    "results": add_results,
    "conversion": add_conversion,
    "NIR": add_nir,
    "neurons": add_neurons,
    "data": add_data,
    "networks and training": add_networks,
    "reading": add_reading,
    "sweeps": add_sweeps,
    "plotting": add_plots,
    "interchange": add_interchange,
    "command lines": add_command_lines,
}


def all_cases(world: World) -> list[Case]:
    """The whole corpus."""
    corpus = Corpus(world)
    for part, add in PARTS.items():
        corpus.part = part
        add(corpus, world)
    names = collections.Counter(case.name for case in corpus.cases)
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, twice
    return corpus.cases


def run_all(only: str = "", every: int = 1) -> list[Result]:
    """What comes of all cases whose names have this in them, or of every n-th of them."""
    matplotlib.use("Agg")
    jax.config.update("jax_disable_most_optimizations", True)  # programs that run once
    with tempfile.TemporaryDirectory() as place:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = all_cases(World(Path(place)))
        before = os.getcwd()
        os.chdir(place)  # nothing is written beside the tests
        try:
            chosen = [case for case in cases if only in case.name]
            return [judged(case) for case in chosen[::every]]
        finally:
            os.chdir(before)


def report(results: list[Result]) -> str:
    """Totals, and all cases that are unclear or accepted."""
    lines = [f"jaxsnn of {_PACKAGE}"]
    for title, chosen in {
        "calls": [r for r in results if not r.group.startswith("python -m")],
        "command lines": [r for r in results if r.group.startswith("python -m")],
    }.items():
        kinds = collections.Counter(result.kind for result in chosen)
        lines.append(
            f"{len(chosen)} {title}: {kinds['unclear']} unclear errors, "
            f"{kinds['accepted']} accepted, "
            f"{kinds['clear']} clear errors, {kinds['fine']} fine otherwise"
        )
    lines.append(f"{sum(r.seconds for r in results):.1f} seconds")
    bad = [result for result in results if result.kind in ("unclear", "accepted")]
    for (group, kind), count in sorted(collections.Counter((r.group, r.kind) for r in bad).items()):
        lines.append(f"  {count:4} {kind:8} {group}")
    for kind in ("unclear", "accepted"):
        chosen = [result for result in results if result.kind == kind]
        lines.append(f"\n{kind}: {len(chosen)}")
        for result in chosen:
            first = _NUMBERED.sub("", (result.message.splitlines() or [""])[0])[:160]
            first = "".join(letter if letter.isprintable() else "?" for letter in first)
            lines.append(f"  {result.name} [{result.reason}] {first}")
    return "\n".join(lines)


def main() -> None:
    """`python tests/bad_inputs.py [--json] [--slow] [--every=3] [part of a name]`."""
    options = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    only = " ".join(argument for argument in sys.argv[1:] if not argument.startswith("--"))
    steps = [int(option[8:]) for option in options if option.startswith("--every=")]
    results = run_all(only, *steps)
    if "--json" in options:
        print(json.dumps([dataclasses.asdict(result) for result in results]))
        return
    print(report(results))
    if "--slow" in options:
        for result in sorted(results, key=lambda r: -r.seconds)[:40]:
            print(f"{result.seconds:6.2f} s  {result.kind:9} {result.name}")
    if "--all" in options:
        for result in results:
            if result.kind in ("clear", "fine"):
                print(f"{result.kind:6} {result.name} | {result.message[:300]}")


if __name__ == "__main__":
    main()
