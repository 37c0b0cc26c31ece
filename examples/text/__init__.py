"""Training of a text-to-image model from scratch on captioned drawings, and a judge of its pictures."""
