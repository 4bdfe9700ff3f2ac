"""Sequence parallelism and batch jobs."""
