"""Published networks as rows: where each is, how its file becomes ours, what its authors report, what we measured.

    diffusion zoo                                                    # the rows
    diffusion zoo --row=dit_xl_2_256                                 # one of them: its files, its commands, its time
    diffusion zoo --row=dit_xl_2_256 --weights=DiT-XL-2-256x256.pt ...    # from the file to the figure

A row is a value (`row.Row`). To add one: `published_rows.add(Row(...))` in a file of your own that --extend names.
"""
