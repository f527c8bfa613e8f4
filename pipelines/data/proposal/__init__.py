"""recsys check: propose a configuration for the files of a log."""
