"""Torch network to ONNX graphs, one per stage."""
