"""Sound as the data of a run: notes of eight instruments, generated notes, and a judge that classifies them."""
