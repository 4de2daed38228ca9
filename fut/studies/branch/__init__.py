"""Branch and hold: what a part of training's memory does to the end of training (arXiv 2601.21624)."""
