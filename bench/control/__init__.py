"""Targets in milliseconds held while the device changes."""
