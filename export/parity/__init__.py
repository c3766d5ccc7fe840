"""Proof that graphs, bundles and engines compute what torch computed."""
