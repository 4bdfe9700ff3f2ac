"""One training loop, the losses, one recipe per system."""
