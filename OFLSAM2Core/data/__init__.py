"""Plain values without torch: volumes, structures, slice geometry, results, overlap."""
