"""The networks of the recipes, trained when they are first asked for, and kept."""

from __future__ import annotations

from importlib.metadata import version
from os import PathLike
from pathlib import Path

import platformdirs
from flax import nnx

from jaxsnn.network import Network
from jaxsnn.paper import training
from jaxsnn.paper.recipes import RECIPES
from jaxsnn.reading import read_network
from jaxsnn.support.errors import explained
from jaxsnn.support.random import check_seed
from jaxsnn.support.typed import Count, typed


@typed
def kept_in(name: str, seed: Count = 0, cache: str | PathLike[str] | None = None) -> Path:
    """The folder of a trained network; another version may train otherwise and has its own.

    Example:
        >>> from pathlib import Path
        >>> from jaxsnn.paper.pretrained import kept_in
        >>> kept_in("fc-modern", cache=Path("cache")).name
        'fc-modern-seed0'
    """
    folder = Path(cache or platformdirs.user_cache_dir("jaxsnn")).expanduser()
    versions = f"jaxsnn-{version('jaxsnn-conversion')}-jax-{version('jax')}"
    return folder / versions / f"{name}-seed{seed}"


@typed
def trained_model(
    name: str,
    train: training.LabelledImages,
    *,
    seed: Count = 0,
    cache: str | PathLike[str] | None = None,
) -> nnx.Module:
    """The model of a recipe of `training.RECIPES`, trained now or earlier, in evaluation mode.

    An interrupted training resumes after the last epoch that it finished.

    Args:
        name: the recipe's name, such as "fc-modern".
        train: the training set.
        seed: of the weights and the training, at least 0 and below 2**32.
        cache: the folder for trained networks; by default the user's cache folder.

    Returns:
        The model.

    Raises:
        KeyError: there is no such recipe.
        ValueError: the seed is out of range, or the training set cannot be trained on.
        OSError: the folder cannot be made; this is noticed before training.

    Example:
        >>> from types import SimpleNamespace
        >>> from jaxsnn.paper.pretrained import trained_model
        >>> trained_model(
        ...     "fc-best", SimpleNamespace(images=[], labels=[])
        ... )  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        KeyError: "no recipe 'fc-best'; there are fc-authors, fc-modern, conv-authors, conv-mod...
    """
    if name not in RECIPES:
        raise KeyError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    check_seed(seed, "seed")
    folder = kept_in(name, seed, cache)
    with explained(folder, kept="The argument cache=... names the folder of trained networks."):
        folder.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[name]
    model = recipe.model(rngs=nnx.Rngs(seed))
    training.fit(model, train, recipe=recipe, seed=seed, checkpoint=folder)
    return model


@typed
def trained_network(
    name: str,
    train: training.LabelledImages,
    *,
    seed: Count = 0,
    cache: str | PathLike[str] | None = None,
) -> Network:
    """The network of `trained_model`, read.

    Args:
        name: as for `trained_model`.
        train: the training set.
        seed: of the weights and the training.
        cache: the folder for trained networks; by default the user's cache folder.

    Returns:
        The network.

    Raises:
        KeyError: as `trained_model`, likewise ValueError and OSError.

    Example:
        >>> from types import SimpleNamespace
        >>> from jaxsnn.paper.pretrained import trained_network
        >>> trained_network("fc-modern", SimpleNamespace(images=[], labels=[]), seed=-1)
        Traceback (most recent call last):
        ...
        ValueError: seed=-1; an integer seed must be from 0 to 4294967295.
    """
    return read_network(trained_model(name, train, seed=seed, cache=cache), train.images[:1])
