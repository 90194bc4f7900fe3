"""Networks drawn: their stages to scale, attention where it stands."""
