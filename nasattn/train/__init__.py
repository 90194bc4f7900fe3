"""Training: `recipe` says how as a value, without torch; `loop` does it."""
