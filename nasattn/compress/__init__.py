"""Smaller networks out of trained ones: which channels go, and what is left of each module."""
