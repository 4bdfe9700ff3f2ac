"""Systems that write text."""
