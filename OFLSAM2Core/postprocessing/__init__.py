"""From probabilities of slices to a volume: smoothing, components, intensities, confidence."""
