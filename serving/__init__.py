"""Light serving: opens a bundle with numpy and annoy alone."""
