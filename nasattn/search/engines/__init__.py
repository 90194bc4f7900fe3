"""Engines: how a search's jobs are run: here, by processes of this machine, or by Ray."""
