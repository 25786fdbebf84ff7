"""The README's code and the notebooks run as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import nbformat
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from nbclient import NotebookClient

import jaxsnn
from jaxsnn.paper.reproduce import as_markdown

pytestmark = pytest.mark.promotes

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README = (ROOT / "README.md").read_text()


def python_blocks():
    return re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_quickstart_is_short():
    lines = [line for line in python_blocks()[0].splitlines() if line.strip()]
    assert len(lines) <= 15


def test_readme_examples_run(tmp_path, monkeypatch, capsys, short_recipes, short_data):
    """All blocks in order, as a reader would type them, with short trainings and few images."""
    train, test = short_data("mnist")
    few = jaxsnn.Dataset(test.images[:300], test.labels[:300])
    monkeypatch.setattr(jaxsnn, "load_dataset", {"mnist": (train, few)}.get)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python_blocks():
        exec(compile(block, "README.md", "exec"), names)
    assert float(names["run"].accuracy(names["labels"])[-1]) > 0.9
    capsys.readouterr()


def test_readme_table_is_the_one_that_was_measured():
    table = pd.read_csv(ROOT / "benchmarks" / "results" / "reproduce" / "table.csv")
    assert as_markdown(table) in README


def test_readme_names_files_that_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


# What makes the trainings and simulations of the notebooks short.
SHORTER = {
    "01_convert": {
        "epochs=3": "epochs=1",
        "fit(model, train,": "fit(model, test,",
        "network, train.images": "network, test.images",
        "1000": "200",
    },
    "02_thresholds_and_rates": {"[:20_000]": "[:2_500]", "[:200]": "[:20]"},
    "03_any_model": {"12_000, 50": "1_500, 50", "[:300]": "[:100]"},
    "04_few_steps": {
        "epochs=2": "epochs=1",
        "12_000": "3_000",
        "[:1000]": "[:100]",
        "[-500:]": "[-100:]",
        "epochs=8": "epochs=1",
    },
    "05_interchange": {"6_000": "1_000", "[:200]": "[:50]"},
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_what_a_fresh_runtime_lacks(path):
    first = next(cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
    assert '%pip install --quiet "jaxsnn-conversion' in first.source


def shortened(notebook, changes):
    for old, new in changes.items():
        cells = [cell for cell in notebook.cells if old in cell.source]
        assert cells, f"no cell has {old}"
        for cell in cells:
            cell.source = cell.source.replace(old, new)
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    flags = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
    monkeypatch.setenv("XLA_FLAGS", flags)  # a training is faster when it is optimised
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    shortened(notebook, SHORTER[path.stem])
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3


def test_a_notebook_shows_bars():
    """Also where ipywidgets are not installed, and a terminal is not there."""
    code = (
        "from jaxsnn.support import progress\nprint(progress.progress_bar(None, total=3).disable)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    texts = [output.get("text", "") for output in notebook.cells[0].outputs]
    assert "False\n" in texts


@pytest.mark.slow
def test_the_benchmarks_find_what_they_import():
    """But those of packages that are not installed; names of this one may have changed."""
    code = (
        "import importlib, pathlib, sys\n"
        "sys.path.insert(0, '.')\n"
        "for path in sorted(pathlib.Path().glob('*.py')):\n"
        "    try:\n"
        "        importlib.import_module(path.stem)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert not error.name.startswith('jaxsnn'), error\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, cwd=ROOT / "benchmarks", timeout=120)


@pytest.mark.slow
def test_the_benchmark_of_accelerators_has_a_small_form(tmp_path):
    """What runs on a GPU when there is one must not be found broken there."""
    script, output = ROOT / "benchmarks" / "on_gpu.py", tmp_path / "on_gpu.json"
    command = [sys.executable, str(script), "--quick", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("pass: ") == 3
    assert len(json.loads(output.read_text())["rows"]) == 3


@pytest.mark.slow
def test_the_benchmark_of_the_parts_of_a_call_has_a_small_form(tmp_path):
    """It calls what is private to the engines, and would not be missed by other tests."""
    model = jaxsnn.networks.FullyConnected(rngs=nnx.Rngs(0))
    model.eval()
    network = jaxsnn.read_network(model, np.zeros((1, 28, 28, 1), np.float32))
    np.savez(tmp_path / "FullyConnected.npz", *jax.tree.leaves(network))
    script, output = ROOT / "benchmarks" / "profile.py", tmp_path / "profile.json"
    command = [sys.executable, str(script), "--quick", "--networks", "FullyConnected"]
    command += ["--weights", str(tmp_path), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert output.with_suffix(".png").exists()
    assert "8 bits, events" in done.stdout
