"""The numbers by which the kernels know layers, resets and stop rules."""

DENSE, SCATTER, POOL = range(3)  # how a layer receives spikes
TO_ZERO, BY_SUBTRACTION = range(2)  # resets
NO_STOP, FIRST_SPIKE, MARGIN = range(3)  # stop rules
