"""What is installed: the wheel, the sdist, the commands, the types and the names of the package."""

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import jaxsnn

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

USERS_CODE = """
import numpy as np
import jax
import jaxsnn
from jaxsnn import encoding, metrics, plotting, stopping, training

images, labels = np.ones((8, 4), np.float32), np.zeros(8, np.int32)
weights = jax.random.normal(jax.random.key(0), (4, 3))

def model(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ weights)

network = jaxsnn.read_network(model, images[:1])
scales = jaxsnn.percentile_scales(network, images, percentile=99.0)
snn = jaxsnn.balance_thresholds(network, scales, reset=jaxsnn.reset_by_subtraction)
run = jaxsnn.simulate(snn, images, key=0, duration=0.01, encode=encoding.constant)
early = jaxsnn.simulate(snn, images, key=0, duration=0.01, stop=stopping.margin(3))
accuracy: float = float(run.accuracy(labels)[-1])
counts: list[int] = [int(count.sum()) for count in run.spike_counts]
fixed = jaxsnn.quantize(jaxsnn.convert(model, images), bits=8)
report = jaxsnn.report(snn, images, labels=labels)
tuned = jaxsnn.calibrate(snn, images, steps=4)
data = jaxsnn.sweep(network, images, labels, jaxsnn.Grid(scales=scales, threshold=[0.5, 1.0]))
figure = plotting.plot_accuracy({"mine": run.accuracy(labels)}, run.times)
train, test = jaxsnn.load_dataset("mnist")
recipe = training.RECIPES["fc-modern"]
print(jaxsnn.__version__, early, fixed, tuned, report.advice, jaxsnn.best(data, time=0.01))
print(accuracy, counts, figure, metrics.additions(network), recipe, len(train), test.images)
"""

# What a user does first, without training; where no clone is on the path.
FIRST_USE = """
import jax, numpy as np, jaxsnn
images = np.random.default_rng(0).random((4, 6), np.float32)
weights = jax.random.normal(jax.random.key(0), (6, 3))
snn = jaxsnn.convert(lambda x: jax.nn.relu(x @ weights), images)
run = jaxsnn.simulate(snn, images, key=0, duration=0.004, engine="scan")
print(jaxsnn.__file__, jaxsnn.__version__, *run.predictions.shape)
"""


def run(*command, **options):
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_code_of_users_has_known_types(tmp_path):
    """In pyright's strict mode every type that the library hands out is known."""
    (tmp_path / "user.py").write_text(USERS_CODE)
    settings = f'{{"typeCheckingMode": "strict", "extraPaths": ["{ROOT.as_posix()}"]}}'
    (tmp_path / "pyrightconfig.json").write_text(settings)
    run("-m", "pyright", "--pythonpath", sys.executable, "--project", tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.mark.slow
def test_sdist_has_the_tests_and_the_documentation(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("README.md", "LICENSE", "CITATION.cff", "jaxsnn/py.typed", "tests/conftest.py"):
        assert wanted in names


@pytest.mark.slow
def test_wheel_is_used_outside_of_the_repository(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    place = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel)
    assert (place / "jaxsnn" / "py.typed").exists()
    environment = {"PYTHONPATH": str(place), "PATH": ""}
    printed = run("-c", FIRST_USE, cwd=tmp_path, env=environment)
    assert printed.split() == [str(place / "jaxsnn" / "__init__.py"), PROJECT["version"], "4", "4"]
    script = run(place / "bin" / "jaxsnn-convert", "--help", cwd=tmp_path, env=environment)
    assert script.startswith("usage: jaxsnn-convert")
    assert "reproduce" in script


def test_extras_hand_through_to_jax():
    for extra in ("cuda12", "cuda13", "tpu"):
        assert PROJECT["optional-dependencies"][extra] == [f"jax[{extra}]"]


def test_citation_names_this_version():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_names_of_the_package_are_the_public_ones():
    assert sorted(dir(jaxsnn)) == sorted([*jaxsnn.__all__, "__version__"])
