"""From a transformers folder and files of samples to an adaptive model folder."""
