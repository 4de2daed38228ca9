"""Questions put to an `estimate(orders)` callable; none knows which estimator answers."""
