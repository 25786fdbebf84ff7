"""Networks and their spikes for other programs, and back."""
