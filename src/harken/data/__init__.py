"""Readers, mixers and datasets."""
