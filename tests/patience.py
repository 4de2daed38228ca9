"""How long tests wait for what must come: so long that only a hang is ended, however busy the machine."""

PATIENCE = 1800
"""Seconds after which a process that a test waits for is taken to hang. No test asserts that anything is fast."""
