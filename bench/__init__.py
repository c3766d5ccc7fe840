"""Measurements: each prints a table and writes JSON; ``python -m adaptrt.bench.<name> -h`` explains one."""
