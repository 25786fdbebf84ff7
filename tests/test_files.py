"""Networks in files: the same network comes back, and never another one."""

import json
import struct
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import random_graphs
import safetensors.numpy
from flax import nnx

import jaxsnn
from jaxsnn import network as parts
from jaxsnn.interchange import files
from jaxsnn.paper.deep_networks import ResNet
from jaxsnn.support.arrays import static_field


def assert_same(found, network):
    """The same classes, structure and functions, and the same bits in arrays of the same kinds."""
    assert jax.tree.structure(found) == jax.tree.structure(network)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(network), strict=True):
        assert isinstance(ours, jax.Array) == isinstance(theirs, jax.Array)
        assert isinstance(ours, np.ndarray) == isinstance(theirs, np.ndarray)
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (
            theirs.dtype,
            theirs.shape,
            theirs.tobytes(),
        )
    relus = [getattr(one, "network", one) for one in (found, network)]
    ours, theirs = ([str.__str__(layer.name) for layer in relu.layers] for relu in relus)
    assert ours == theirs


def round_trip(path, network, **options):
    jaxsnn.save(path, network, **options)
    found = jaxsnn.load(path, **options)
    assert type(found) is type(network)
    assert_same(found, network)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"
