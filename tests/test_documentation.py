"""The documentation: it builds without a warning, its examples run, and nothing is left out."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxsnn

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "notebooks").glob("*.md"))


@pytest.mark.slow
def test_documentation_builds_and_has_a_page_for_every_public_name(tmp_path):
    """All pages are read and all links are followed; only the HTML is not written."""
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dummy"]
    command += [str(ROOT / "notebooks"), str(tmp_path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in jaxsnn.__all__:
        page = (ROOT / "notebooks" / "api" / f"{name}.md").read_text()
        assert f":: jaxsnn.{name}\n" in page


@pytest.mark.promotes
def test_examples_of_the_pages_run():
    """As a reader would type them, with a small network of their own."""
    weights = jax.random.normal(jax.random.key(0), (6, 3))
    images = np.random.default_rng(0).random((8, 6), np.float32)
    names = {
        "jaxsnn": jaxsnn,
        "model": lambda x: jax.nn.relu(x @ weights),
        "calibration_images": images,
        "images": images,
        "labels": np.zeros(8, int),
    }
    texts = [page.read_text() for page in sorted(PAGES, key=lambda page: page.stem != "index")]
    blocks = re.findall(r"^```python\n(.*?)^```", "".join(texts), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "documentation", "exec"), names)


def test_contributing_names_all_modules():
    tree = (ROOT / "notebooks" / "contributing.md").read_text()
    for path in (ROOT / "jaxsnn").iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert re.search(rf"\b{path.stem}\b", tree), path.stem
