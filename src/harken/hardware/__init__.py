"""What a mechanism costs on a machine."""
