"""Finetuning of the model of `examples.text` on five pictures of a glyph that its training data do not contain."""
