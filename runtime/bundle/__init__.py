"""What a bundle is: its keys, its files, and every check of both. Reads no engine, imports none."""
