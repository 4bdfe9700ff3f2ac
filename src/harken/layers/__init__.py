"""Blocks that two or more models share, and nothing else."""
