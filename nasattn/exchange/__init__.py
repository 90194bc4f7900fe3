"""Exchange: what nasattn and other search libraries hand each other."""
