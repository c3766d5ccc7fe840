"""One way of being adaptive per file: its configuration, its modules, its knobs, its count of work."""
