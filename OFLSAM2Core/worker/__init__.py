"""A process that learns and segments for another program, and the client of it."""
