"""Launchers, which run one command as several processes."""
