"""Training: choosing on validation, fitting, checkpoints, warm starts."""
