"""Published networks as rows: the file and its conversion, the authors' figure, and our measurement.

    diffusion zoo                                                    # lists the rows
    diffusion zoo --row=dit_xl_2_256                                 # prints the files, commands and time of a row
    diffusion zoo --row=dit_xl_2_256 --weights=DiT-XL-2-256x256.pt ...    # measures a row from its file

A row is a value (`row.Row`). To add one, call `published_rows.add(Row(...))` in a file that --extend names.
"""
