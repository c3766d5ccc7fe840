"""Convolutional networks of transformers: its own modules as they are, with heads of ours between its layers."""
