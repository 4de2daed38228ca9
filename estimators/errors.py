"""Errors of the mathematics; each message says what was expected, what came, and what to do."""

from __future__ import annotations


class EstimatorError(Exception):
    """Root of this package's errors."""


class OrderError(EstimatorError, ValueError):
    """An order that cannot be trained: unknown or missing item, wrong length, unreadable specification."""


class RuleError(EstimatorError, ValueError):
    """An update rule that is unknown, misconfigured, or lacks a property that an estimator needs."""


class DivergenceError(EstimatorError, ArithmeticError):
    """A loss or a parameter that is not finite."""


class LayoutError(EstimatorError, ValueError):
    """A description of the parameter vector that does not fit: tensors without a name, another number of coordinates."""
