"""The playground: one page at the gateway's root to ask, and to see what the corrector changes."""
