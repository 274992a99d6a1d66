"""Triplets: checking them, before any training."""
