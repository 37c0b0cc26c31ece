"""A web page for trying a model: `diffusion playground`, see docs/playground.md.

page_request.py is the request of a visitor, and uploads.py stores the pictures that come with it. source.py makes the
pictures with a text-to-image model, and writes them; trained.py makes them with a trained run. page.py is the layout of
the page, form.py its inputs, live_view.py its HTML of a trajectory, and api.py its HTTP interface. gate.py and
known_fields.py refuse requests that the page must not answer.
"""
