"""FLUX.1 before and behind its layers, written out in numpy: with a picture that is edited, and further words."""

import numpy as np

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.flux.network import Flux
from tests.models.dit_oracle import silu
from tests.published.equations import close, conditioning, dense, normal, normalised, patches, rms, wave, without_layers


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """The picture that is edited has the first coordinate 1, and no residuals; its tokens follow those of x."""
    net = Flux(3, 2, 12, 2, 3, 2, 5, 4, (2, 2, 2), strength=True)
    x, t, text, pooled = normal(2, 4, 6, 3), np.float32([0.3, 0.8]), normal(2, 3, 5), normal(2, 4)
    edited, strength = normal(2, 6, 4, 3), np.float32([3.5, 30])
    more, shown = normal(2, 2, 5), np.array([[True, False], [True, True]])
    residuals = (normal(2, 6, 12),), (normal(2, 6, 12), normal(2, 6, 12))
    inputs = {"text": text, "pooled": pooled, "strength": strength, "picture": edited, "extra_text": ((more, shown),)}
    p, found, received = without_layers(net, x, t, inputs | {"residuals": residuals})
    ((image, words), (c, angles, joint)), (_, (_, _, single)) = received
    places = [(0, 0, 0)] * 5 + [(0, row, column) for row in range(2) for column in range(3)]
    places += [(1, row, column) for row in range(3) for column in range(2)]
    close(angles, axis_angles(np.array(places), (2, 2, 2)))
    added = np.concatenate([joint["residual"], single["residual"]])
    order = [residuals[0][0]] * 2 + [residuals[1][0]] * 2 + [residuals[1][1]]  # of three layers, two have the first
    np.testing.assert_array_equal(added, np.pad(order, [(0, 0), (0, 0), (0, 6), (0, 0)]))
    for b in range(2):
        seen = [*[True] * 3, *shown[b], *[True] * 12]
        np.testing.assert_array_equal(np.concatenate([joint["seen"], single["seen"]])[:, b], [seen] * 5)
        close(words[b], dense(p["text_embedding"], np.float64(np.concatenate([text[b], more[b]]))))
        h = dense(p["patch_embedding"], np.concatenate([patches(np.float64(a[b])) for a in (x, edited)]))
        close(image[b], h)
        times = 1000 * np.float64(t[b]), np.float64(pooled[b]), 1000 * np.float64(strength[b])
        condition = conditioning(p["conditioning"], *times)
        close(c[b], condition, 1e-3)  # angles of 30,000 radians in float32
        shift, scale = dense(p["final_modulation"]["dense"], condition)
        close(patches(found[b]), dense(p["final"], normalised(h[:6], 1e-6) * (1 + scale) + shift), 1e-3)


def test_the_vectors_of_chroma_stand_in_the_order_of_its_layers():
    """Three for each single layer, six for each joint layer's picture, six for its text, and the output's two."""
    net = Flux(3, 3, 12, 2, 1, 2, 5, 0, (2, 2, 2), approximator=(8, 6, 1))
    x, t, text = normal(2, 4, 6, 3), np.float32([0.3, 0.8]), normal(2, 3, 5)
    shown = np.array([[True, False, True], [True, True, True]])
    p, found, received = without_layers(net, x, t, {"text": text, "text_mask": shown})
    ((image, _), (_, _, joint)), (_, (_, _, single)) = received
    number, small = 3 + 24 + 2, p["approximator"]
    for b in range(2):
        np.testing.assert_array_equal(single["seen"][0, b], [*shown[b], *[True] * 6])
        times = np.tile([*wave(1000 * np.float64(t[b]), 2), *wave(0.0, 2)], (number, 1))
        h = dense(small["enter"], np.concatenate([times, [wave(1000.0 * i, 4) for i in range(number)]], axis=1))
        read = small["norm_0"]["scale"] * rms(h, np.finfo(np.float32).eps)
        h = h + dense(small["layer_0"]["out"], silu(dense(small["layer_0"]["hidden"], read)))
        vectors = dense(small["leave"], h)
        close(single["vectors"][0, b], vectors[:3])
        close(joint["vectors"][0][:, b], vectors[3:15].reshape(2, 6, 12))
        close(joint["vectors"][1][:, b], vectors[15:27].reshape(2, 6, 12))
        shift, scale = vectors[27:]
        tokens = normalised(np.float64(image[b]), 1e-6) * (1 + scale) + shift
        close(patches(found[b]), dense(p["final"], tokens))
