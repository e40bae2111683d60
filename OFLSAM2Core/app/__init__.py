"""What a user interface needs and no toolkit: states of a run, requests, the presenter."""
