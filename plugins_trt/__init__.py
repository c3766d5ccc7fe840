"""The ops as GPU kernels and TensorRT plugins; nothing here yet, see README.md."""
