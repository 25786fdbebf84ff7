"""Values of a grid: nonsense is refused where it is given, by its name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn

MASKED = np.ma.array([1.0, 2.0], mask=[False, True])
RAGGED = [1.0, [2.0, 3.0]]
WRONG = {
    "scales": [
        0, -1.0, np.nan, [1.0, np.inf], [1.0, 0.0], {"a": 0.0}, {"a": [1.0, -2.0]}, {"a": []},
        [np.array([1.0, 0.0]), 1.0], np.array([]), 1j, True, "1", b"1", MASKED, [MASKED, 2.0],
        RAGGED, {1.0}, object(), {"a": {"b": 1.0}}, jax.random.key(0),
    ],
    "threshold": [
        "0.5", ["0.5"], b"1", True, [True], 1j, None, [RAGGED], {"a": "x"}, object(), {1.0},
        (x for x in [1.0]), MASKED, [{"a": 1.0}], np.ones((2, 2, 2)), [[]], len,
        jax.random.key(0),
    ],
    "max_rate": [np.nan, -1, np.inf, MASKED],
    "dt": [0, -1e-3, np.nan, 1e-300, 1e300, MASKED],
    "duration": [0, np.nan, np.inf, 1e300, MASKED],
    "refractory_period": [-1.0, np.nan, 1e300, MASKED],
    "seed": [-1, 1.5, 1 << 32, 1 << 70, jax.random.key(0)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=[f"{name}-{place}" for name, values in WRONG.items() for place in range(len(values))],
)
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        jaxsnn.Grid(**{"scales": 1.0, name: value})
    assert len(str(caught.value)) < 400


def test_numbers_of_all_kinds_are_taken():
    one = [2, 2.0, np.float32(2), np.int8(2), jnp.bfloat16(2), jnp.array(2.0)]
    for value in one:
        assert jaxsnn.Grid(scales=value, threshold=value).sizes == {}
    several = [[2, 3.0], np.array([2, 3]), jnp.array([2.0, 3.0], jnp.bfloat16), (2, 3)]
    for values in several:
        grid = jaxsnn.Grid(scales=1.0, threshold=values, max_rate=np.array([10, 20]))
        assert grid.sizes == {"threshold": 2, "max_rate": 2}
        assert [float(value) for value in grid.values("threshold")] == [2.0, 3.0]


def test_a_long_value_is_shortened():
    with pytest.raises(ValueError, match="threshold") as caught:
        jaxsnn.Grid(scales=1.0, threshold=[-np.ones(100_000)])
    assert len(str(caught.value)) < 400
