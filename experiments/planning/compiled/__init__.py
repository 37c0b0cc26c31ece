"""What XLA made of a program: the text of the compiled program, read, counted and timed by a roofline."""
