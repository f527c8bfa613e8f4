"""The configuration: one TOML file into frozen models, every key checked, every default visible here."""
