"""Recipes for gendiff's domains: what is trained, on what, for how long, and how the result is shown."""
