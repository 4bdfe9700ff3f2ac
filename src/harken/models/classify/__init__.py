"""Systems that name what a whole sequence is."""
