"""The host's part of generation: trees of drafted tokens, which of them stand, and how a token is chosen.

Everything here is pure: numbers come in, tokens go out; no engine, no clock, no file.
"""
