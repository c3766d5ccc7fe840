"""Measurements: each prints a table and writes JSON.

``python -m adaptrt.bench`` lists them, ``python -m adaptrt.bench.NAME --help`` explains one.
"""
