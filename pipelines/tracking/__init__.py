"""Tracking: MLflow, and lines and bars about the work."""
