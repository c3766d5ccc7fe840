"""What a user would deploy instead of an adaptive bundle, measured beside it."""
