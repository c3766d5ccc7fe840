"""The ops as Triton kernels, one file each; importing this package imports no Triton."""
