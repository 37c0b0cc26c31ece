"""FLUX.2 before and behind its layers, written out in numpy: with two pictures that are edited."""

import numpy as np

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.flux2 import Flux2
from tests.models.dit_oracle import silu
from tests.published.equations import close, dense, normal, normalised, timestep, without_layers


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """All layers of a kind share vectors; the k-th picture has the first coordinate 10 k, and words the last."""
    net = Flux2(3, 16, 2, 3, 2, 5, (2, 2, 2, 2), 50.0, strength=True)
    x, t, text, strength = normal(2, 2, 3, 3), np.float32([0.3, 0.8]), normal(2, 3, 5), np.float32([3.5, 6])
    pictures = normal(2, 1, 2, 3), normal(2, 2, 1, 3)
    p, found, received = without_layers(net, x, t, {"text": text, "strength": strength, "pictures": pictures})
    ((image, words), (_, angles, joint)), (_, (_, _, single)) = received
    places = [(0, 0, 0, i) for i in range(3)] + [(0, i, j, 0) for i in range(2) for j in range(3)]
    places += [(10, 0, 0, 0), (10, 0, 1, 0), (20, 0, 0, 0), (20, 1, 0, 0)]
    close(angles, axis_angles(np.array(places), (2, 2, 2, 2), 50.0))
    for b in range(2):
        close(words[b], dense(p["text_embedding"], np.float64(text[b])))
        h = dense(p["patch_embedding"], np.concatenate([np.float64(a[b]).reshape(-1, 3) for a in (x, *pictures)]))
        close(image[b], h)
        c = timestep(p["time"], 1000 * np.float64(t[b]))
        c = silu(c + timestep(p["strength"], 1000 * np.float64(strength[b])))
        for found_vectors, depth, name in (
            (joint["vectors"][0], 2, "image_modulation"),
            (joint["vectors"][1], 2, "text_modulation"),
            (single["vectors"], 3, "single_modulation"),
        ):
            close(found_vectors[:, b], np.array([dense(p[name]["dense"], c)] * depth))
        shift, scale = dense(p["final_modulation"]["dense"], c)
        close(found[b].reshape(6, 3), dense(p["final"], normalised(h[:6], 1e-6) * (1 + scale) + shift))
