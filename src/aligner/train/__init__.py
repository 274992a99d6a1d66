"""Training a corrector through TRL: warm-up on identity rows, then residual training."""
