"""Each technique that steers or changes a text-to-image model, in a row of pictures with its figure."""
