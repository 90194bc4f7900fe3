"""Where networks run: each runtime in a file of its own, and the process that times them.

`runner.py`, `protocol.py`, `facts.py` and the runtimes' own files need the standard library alone
to be imported: they are copied to the device on which a network is timed.
"""
