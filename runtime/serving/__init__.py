"""Serving bundles over the Open Inference Protocol, with KServe's model server (``adaptrt[serve]``).

KServe and what it brings are imported here and nowhere else in the runtime, when a server starts.
"""
