"""Holding a physical budget by feedback: pure arithmetic, no clock inside."""
