"""The kernels on a CUDA device: right, fast, with which tiles."""
