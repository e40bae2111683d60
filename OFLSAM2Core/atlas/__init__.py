"""The support cases as an atlas: registered to a volume, their labels propagated and fused."""
