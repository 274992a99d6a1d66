"""Triplets: reading them, checking them, splitting them."""
