"""A training of the user's own, recorded while it runs: what was consumed, by which optimizer, from where to where."""
