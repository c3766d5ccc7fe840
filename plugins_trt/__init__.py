"""The ops as GPU kernels and TensorRT plugins; importing this imports no Triton."""
