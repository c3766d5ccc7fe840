"""The families of adaptive networks beside each other."""
