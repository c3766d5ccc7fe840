"""Adaptive networks in int8 against everything else that the same training could give, at equal measured latency."""
