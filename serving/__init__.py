"""Light serving: opens a bundle with numpy, and annoy where it is searched by its index."""
