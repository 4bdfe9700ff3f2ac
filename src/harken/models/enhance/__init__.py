"""Systems that clean, restore or extend a recording."""
