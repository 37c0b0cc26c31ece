"""Techniques that steer or change a text-to-image model, each with a row of pictures and a score."""
