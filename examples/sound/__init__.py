"""Sound as examples of a run: notes of eight instruments, what a run makes of them, and what a judge hears."""
