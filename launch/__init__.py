"""Launchers: the same command on several processes."""
