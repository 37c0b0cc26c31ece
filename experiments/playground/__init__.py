"""A web page for trying a model: `diffusion playground`, see docs/playground.md.

page_request.py is the request of a visitor, and uploads.py keeps the pictures that come with it. source.py makes the
pictures, by a text-to-image model, and writes them; trained.py is a trained run. page.py is the page, form.py its
inputs, live_view.py its HTML of a trajectory, api.py its HTTP interface; gate.py decides who is answered.
"""
