"""Correcting answers: the corrector, its step loop, and what keeps an original answer."""
