"""Guidance of a model that edits a picture by an instruction, with a scale for the picture and one for the text."""

from diffusion.guidance.branches import Branches, evaluate
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import belonging_to, process_of


def text_and_picture(
    branches: Branches, text_scale: Scale, picture_scale: Scale, interval: Interval = None
) -> Denoiser:
    """Guidance with two scales: null + s_I (picture - null) + s_T (both - picture), for x0 and eps alike.

    It is computed as both + (s_T - 1) (both - picture) + (s_I - 1) (picture - null). A larger s_T follows the
    instruction more closely; a larger s_I follows the original picture more closely.

    Facts:
        nfe: 3 branches per call
        neutral: s_T = s_I = 1, the denoiser of both conditions exactly
        paper: Brooks et al. 2023, "InstructPix2Pix: Learning to Follow Image Editing Instructions", eq. 3

    Args:
        branches: evaluates (text and picture, only picture, neither).
        text_scale: guidance scale s_T of the text: a number, `[B]` or a function of t.
        picture_scale: guidance scale s_I of the picture, in the same forms.
        interval: (t_low, t_high), both included, outside which s_T = s_I = 1; None for all times.

    Returns:
        A denoiser. If the network predicts a variance, the first branch provides it.

    Raises:
        ValueError: if the interval is empty; when called, if there are not three branches.
    """
    check_interval(interval, process_of(branches))

    def denoise(x_t, t):
        both, picture, null = evaluate(branches, x_t, t, (3,), "(text and picture, picture, neither)")
        s_text = strength(text_scale, 1, interval, t, x_t)
        s_picture = strength(picture_scale, 1, interval, t, x_t)
        guided = lambda both, picture, null: both + s_text * (both - picture) + s_picture * (picture - null)
        return both._replace(x0=guided(both.x0, picture.x0, null.x0), eps=guided(both.eps, picture.eps, null.eps))

    return belonging_to(process_of(branches), denoise)
