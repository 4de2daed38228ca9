"""What questions that retrain a few of the orders that they ask about have in common."""

from __future__ import annotations

LEAST = 3
"""Retrained orders below which nothing is fitted or compared."""
