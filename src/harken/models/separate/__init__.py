"""Systems that take a mixture apart, or keep one source of it."""
