"""Evaluation: the test window, its certificate, its statistics."""
