"""Release: the bundle, its index, the gate, promotion."""
