"""Training of a text-to-video model from scratch on moving drawings, and a judge of its clips."""
