"""Calibration: what makes a converted network accurate in a given number of steps.

    scales_for        chooses scale factors, by trying some
    correct_biases    adds the mean errors of each layer to its biases
    calibrate         learns thresholds, initial potentials and more by gradients

All of them look at images without labels, and compare with the ReLU network.
"""

from jaxsnn.calibration.biases import correct_biases
from jaxsnn.calibration.learning import calibrate, moved, no_moves
from jaxsnn.calibration.scales import scales_for

__all__ = ["calibrate", "correct_biases", "moved", "no_moves", "scales_for"]
