"""Tracking: MLflow, log lines and stages."""
