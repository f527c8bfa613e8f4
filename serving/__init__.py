"""Light serving of bundles: needs numpy, and annoy if the bundle has an index."""
