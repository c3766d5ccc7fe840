"""Encoders of transformers on the canonical block: loaded, checked against their own forward, and then adaptive.

The embedding and the head stay transformers' code; the layers between them are blocks of ours, filled by the names in
``rows.py``. Nothing here imports transformers before a checkpoint or a folder made from one is read.
"""
