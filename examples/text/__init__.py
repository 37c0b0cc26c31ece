"""Text to image from nothing, on captioned drawings, and a judge who reads what the pictures show."""
