"""The torch side of the ops: eager for training, one node of the adaptrt domain in exports."""
