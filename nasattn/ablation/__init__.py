"""Ablation: `statistics` compares arms with a base, `factorial` reads designs, `power` plans."""
