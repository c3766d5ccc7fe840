"""Torch model to bundle: tracing, op bodies, parity, calibration. Import what you need from its files."""
