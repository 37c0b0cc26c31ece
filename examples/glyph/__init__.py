"""A glyph that no picture of the data has, taught from five pictures to the model of `examples.text`."""
