"""Tuning: searches over the settings of a training."""
