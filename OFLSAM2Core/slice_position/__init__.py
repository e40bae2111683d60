"""Where a slice lies along the slice axis between the ends of the structures."""
