"""The numbers by which the kernels know connections, layers, resets and stop rules."""

DENSE, SCATTER, TARGET = range(3)  # how a connection brings spikes
NEURONS, POOL, MAXIMA = range(3)  # what a layer does with them
TO_ZERO, BY_SUBTRACTION = range(2)  # resets
NO_STOP, FIRST_SPIKE, MARGIN = range(3)  # stop rules
