"""A package of its own, ahead of what others install under this name."""
