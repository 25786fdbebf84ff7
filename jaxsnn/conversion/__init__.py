"""From a ReLU network to a spiking one: scale factors, thresholds, fixed point."""
