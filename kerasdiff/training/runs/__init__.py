"""Training as a TOML file says: settings, the run, what it leaves behind."""
