"""What a bundle's stages become for one engine: passes over graphs, one per file, and the engines built of them."""
