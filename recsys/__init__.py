"""Collaborative metric learning for recommendation: a pure library over numpy, torch and annoy."""

__version__ = "0.1.0"
