"""How good a network will be, before it is trained to the end; and how far to trust that."""
