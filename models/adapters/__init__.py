"""One architecture family per file: its inputs, its embedding, its blocks and its head's norm."""
