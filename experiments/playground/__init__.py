"""A web page for trying a model: `diffusion playground`, see docs/playground.md.

page_request.py defines a visitor's request, and uploads.py stores the pictures that come with it. source.py makes
pictures with a text-to-image model and writes them to files; trained.py makes them with a trained run. page.py lays the
page out, form.py holds its inputs, live_view.py renders a trajectory as HTML, and api.py is its HTTP interface. gate.py
and known_fields.py refuse requests that the page must not answer.
"""
