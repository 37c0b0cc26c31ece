"""Text to video from nothing, on moving drawings, and a judge who knows how they move."""
