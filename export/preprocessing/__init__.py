"""The preprocessing that a transformers folder describes, as a bundle declares it; read from its JSON files alone."""
