"""Differentiable transforms between waveforms and what models read."""
