"""A page to try a model on: `python -m experiments.playground`, see docs/playground.md.

asked.py says what is asked for; published.py and trained.py make it, with a text-to-image model or a trained run;
shown.py turns what is seen of it into HTML; page.py is the page and its API.
"""
