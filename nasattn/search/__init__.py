"""Search: `spec` is a study as a value, `storage` keeps it, `run` asks, evaluates and tells."""
