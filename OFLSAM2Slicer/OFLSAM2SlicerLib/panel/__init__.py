"""The parts of the panel, one a file: they show a state and pass on clicks, and decide nothing."""
