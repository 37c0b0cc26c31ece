"""Programs for those who work on this repository; nothing of the library needs them."""
