"""Settings of all tests: checked array types, and where the data come from."""

import collections
import functools
import gc
import os
from dataclasses import replace
from pathlib import Path

# Most of the tests' time goes to XLA's compiler. Processes and runs share their programs, and what
# computes for milliseconds is not optimised, but in the golden digests: without the fusion emitters
# XLA compiles in half the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1",
)
# So does what Numba compiles, by a quarter; sums stay in their order.
os.environ.setdefault("NUMBA_OPT", "1")
# Programs need not say which line of Python each of their operations comes from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import matplotlib
import numpy as np
import pytest
from jaxtyping import install_import_hook

# Every annotated shape of the library is checked while the tests run. Modules without shapes are
# left to pyright: to check them too would take a fifth of the time.
LIBRARY = Path(__file__).parents[1] / "jaxsnn"
WITH_SHAPES = [
    ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)
    for path in LIBRARY.rglob("*.py")
    if "\nfrom jaxtyping import Array, " in path.read_text()
]
install_import_hook(WITH_SHAPES, "typechecker.checked")

matplotlib.use("Agg")

# Looking for garbage among JAX's many objects would take a tenth of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(items):
    """Of tests that are thinned by n, all but every n-th case are slow.

    The bad inputs are last: their process finds what Numba has compiled for the others.
    """
    cases = collections.Counter()
    for item in items:
        if (thinned := item.get_closest_marker("thinned")) and hasattr(item, "callspec"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % thinned.args[0]:
                item.add_marker("slow")
            cases[test] += 1
    items.sort(key=lambda item: item.path.name == "test_bad_inputs.py")


@pytest.fixture(autouse=True)
def strict(request):
    """No implicit promotion of types or ranks, but where models and other libraries rely on it."""
    if request.node.get_closest_marker("promotes"):
        yield
    else:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            yield


@pytest.fixture(scope="session", autouse=True)
def kernels(request):
    """Each of several processes compiles some of the kernels, and finds the others on the disk."""
    workers = getattr(request.config, "workerinput", {"workercount": 1})
    if workers["workercount"] == 1 or len(request.session.items) < 1000:
        return
    import jaxsnn

    def network(bias):
        model = lambda x: jax.nn.relu(x @ jax.numpy.eye(2) + bias)  # noqa: E731
        relus = jaxsnn.read_network(model, np.zeros((1, 2), np.float32))
        return jaxsnn.balance_thresholds(relus, 1.0)

    plain, biased = network(0.0), network(0.5)
    variants = (
        lambda: plain,
        lambda: jaxsnn.quantize(plain, bits=8),
        lambda: jaxsnn.quantize(biased, bits=8),
        lambda: jaxsnn.quantize(plain, bits=16),
    )
    for variant in variants[int(workers["workerid"][2:]) :: workers["workercount"]]:
        images = np.ones((1, 2), np.float32)
        jaxsnn.simulate(variant(), images, key=0, duration=0.001, engine="events")


SHARED_ARCHIVES = Path(__file__).parents[2] / "shared" / "data" / "mnist"
if "JAXSNN_ARCHIVES" not in os.environ and SHARED_ARCHIVES.is_dir():
    os.environ["JAXSNN_ARCHIVES"] = str(SHARED_ARCHIVES)


@pytest.fixture
def rng():
    return np.random.default_rng(20150712)


@pytest.fixture(scope="module")
def short_recipes():
    """Recipes of one epoch without augmentation, with fewer neurons and maps."""
    from jaxsnn.training import RECIPES

    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in RECIPES.items():
            model = recipe.model
            if name.startswith("fc"):
                model = functools.partial(model, (784, 200, 200, 10))
            elif name.startswith("conv"):
                model = functools.partial(model, maps=(4, 12))
            short = replace(recipe, epochs=1, model=model, augment=lambda key, images: images)
            patch.setitem(RECIPES, name, short)
        yield


@pytest.fixture(scope="module")
def short_data():
    """`load_dataset` with two fifths of the training set, which loads the same data once."""
    import jaxsnn

    @functools.cache
    def load(*arguments, **options):
        train, test = jaxsnn.load_dataset(*arguments, **options)
        few = 2 * len(train) // 5
        return jaxsnn.Dataset(train.images[:few], train.labels[:few]), test

    return load


@pytest.fixture(scope="module")
def short_commands(short_recipes, short_data):
    """Commands that train for a short time."""
    from jaxsnn.paper import few_steps, reproduce, sweep_command

    with pytest.MonkeyPatch.context() as patch:
        for module in (few_steps, reproduce, sweep_command):
            patch.setattr(module, "load_dataset", short_data)
        yield
