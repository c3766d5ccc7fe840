"""A user's own adaptive network, by what its class says of itself: derived, checked, refused."""
