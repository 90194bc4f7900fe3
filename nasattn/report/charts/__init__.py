"""The charts of a search, as values, in a browser and on paper."""
