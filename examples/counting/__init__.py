"""Teaches the model of drawings to count by rewards of one judge, and measures the result by a second judge."""
