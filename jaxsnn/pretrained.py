"""The paper's networks, trained when they are first asked for, and kept."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import platformdirs
from flax import nnx

from jaxsnn import training
from jaxsnn.network import Network
from jaxsnn.reading import read_network


def kept_in(name: str, seed: int = 0, cache: Path | None = None) -> Path:
    """The folder of a trained network; another version may train otherwise and has its own.

    Example:
        >>> from pathlib import Path
        >>> from jaxsnn.pretrained import kept_in
        >>> kept_in("fc-modern", cache=Path("cache")).name
        'fc-modern-seed0'
    """
    folder = cache or Path(platformdirs.user_cache_dir("jaxsnn"))
    versions = f"jaxsnn-{version('jaxsnn-conversion')}-jax-{version('jax')}"
    return folder / versions / f"{name}-seed{seed}"


def trained_network(
    name: str, train: training.LabelledImages, *, seed: int = 0, cache: Path | None = None
) -> Network:
    """The network of a recipe of `training.RECIPES`, trained now or earlier.

    An interrupted training goes on with the epoch that it was in.

    Args:
        name: the recipe's name, such as "fc-modern".
        train: the training set.
        seed: of the weights and the training.
        cache: the folder for trained networks; by default the user's cache folder.

    Returns:
        The network.

    Raises:
        KeyError: there is no such recipe.

    Example:
        >>> from types import SimpleNamespace
        >>> from jaxsnn.pretrained import trained_network
        >>> trained_network("fc-best", SimpleNamespace(images=[], labels=[]))
        Traceback (most recent call last):
        ...
        KeyError: "no recipe 'fc-best'; there are fc-authors, fc-modern, conv-authors, conv-modern"
    """
    if name not in training.RECIPES:
        raise KeyError(f"no recipe {name!r}; there are {', '.join(training.RECIPES)}")
    recipe = training.RECIPES[name]
    model = recipe.model(rngs=nnx.Rngs(seed))
    training.fit(model, train, recipe=recipe, seed=seed, checkpoint=kept_in(name, seed, cache))
    return read_network(model, train.images[:1])
