"""From volumes to what the network sees: intensity mapping, ROI crop, letterbox."""
