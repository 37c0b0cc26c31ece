"""Published figures made again: each remake is one file, with its paper, its values, its recipe and its verdict."""
