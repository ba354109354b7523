"""Tests with the whole system below them: systemd as PID 1, a Debian package."""
