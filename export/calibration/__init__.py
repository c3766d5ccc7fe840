"""From data to the curve, the frontier and the exit thresholds of a bundle."""
