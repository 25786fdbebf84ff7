"""From a trained ReLU network to a spiking one."""
