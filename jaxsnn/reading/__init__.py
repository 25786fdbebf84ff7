"""From a model to a `Network`: any JAX function made of linear operations and ReLUs.

    model    --tracing-->                    jaxpr, the primitive operations that JAX would run
    jaxpr    --interpreter, primitives-->    a `Signal`: the linear operations since the last ReLU
    signal   --simplify-->                   a layer at each ReLU

`signals` says what a signal is, `products` reads the primitives that sum over inputs, `moves` those
that move values, `maxima` makes max poolings of neurons or sums of ReLUs, and `origins` and
`errors` make errors name the user's source line and what to do.
"""

from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.reader import read_network
from jaxsnn.reading.tracing import Model

__all__ = ["Model", "ReadingError", "read_network"]
