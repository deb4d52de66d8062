"""Engines carry out runs somewhere. None owns the truth: the run folders do."""
