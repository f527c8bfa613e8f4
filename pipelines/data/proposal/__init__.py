"""recsys check: the configuration that would read some files."""
