"""A watermark for any finished picture: a message spread over its cosine transform."""

import numpy as np
import scipy  # reads its parts where they are first used

from diffusion.sampling.watermarks import keyed
from diffusion.sampling.watermarks.watermark import Reading, Watermark, check_finite, check_whole

PASSES = 3  # repetitions, which restore the part of a change that clipping at black and white removes


def spread_spectrum(key: str, bits: int = 32, low: int = 8, high: int = 48, strength: float = 2.0) -> Watermark:
    """Each bit shifts a subset of a picture's cosine coefficients along signs that the key determines.

        c <- c + b_k s d_k,    d_k = max(0, margin - b_k mean(s c)),    margin = strength sqrt(H W / number)

    c are the coefficients (u, v) with low <= max(u, v) < high of the unitary DCT of the picture's grey values; resizing
    only scales them. The shift accounts for the picture's component along s, so every bit can be read from the marked
    picture, and a bit that is already present changes nothing. A bit is read as the sign of mean(s c). The watermark
    does not survive crops and rotations, which move the coefficients.

    The score is sum(b s c') / |c'|, where c' are the coefficients clipped at their median magnitude. For any picture
    without the watermark, the score is a sum of independent random signs over the keys, so exp(-score^2 / 2) bounds the
    p-value (Hoeffding 1963).

    Facts:
        paper: Cox et al. 1997, "Secure Spread Spectrum Watermarking for Multimedia"; Malvar & Florencio 2003, "Improved
            Spread Spectrum", which accounts for the picture's component

    Args:
        key: 64 hexadecimal digits.
        bits: K of the message, which the key determines; 1 .. 4096.
        low, high: band of coefficients, 0 <= low < high <= 4096; pictures smaller than `high` have fewer of them.
        strength: smallest margin, as a root mean square change of the pixels in levels of 255, in (0, 255].

    Raises:
        ValueError: if an argument is out of range; from `embed` and `read`, if pictures have fewer coefficients than
            bits; from `read`, if pictures are not finite.
    """
    check_whole("spread_spectrum", 1, 4096, bits=bits, high=high)
    check_whole("spread_spectrum", 0, high - 1, low=low)
    if isinstance(strength, bool) or not 0 < strength <= 255:
        raise ValueError(f"spread_spectrum: strength = {strength} must be above 0 and at most 255 levels")
    message = keyed.bits(key, "message", bits)
    signs = np.where(keyed.bits(key, "signs", high * high), 1.0, -1.0).reshape(high, high)
    owner = (keyed.order(key, "bits", high * high) % bits).reshape(high, high)
    band = np.maximum(*np.indices((high, high))) >= low

    def carriers(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(row, column, sign, bit) of each coefficient, for pictures of this shape."""
        if len(shape) != 4:
            raise ValueError(f"spread_spectrum: pictures have the shape {list(shape)}. Valid: [B, H, W, C]")
        height, width = shape[1:3]
        rows, columns = np.nonzero(band[: min(high, height), : min(high, width)])
        if len(set(owner[rows, columns].tolist())) < bits:
            raise ValueError(
                f"spread_spectrum: pictures of {height} x {width} have only {rows.size} coefficients between low = "
                f"{low} and high = {high}, too few for {bits} bits. Lower both limits, or use fewer bits"
            )
        return rows, columns, signs[rows, columns], owner[rows, columns]

    def projections(along: np.ndarray, bit: np.ndarray) -> np.ndarray:
        """The mean of s c for each bit, `[B, K]`."""
        member = np.equal.outer(bit, np.arange(bits)).astype(np.float64)
        return along @ (member / member.sum(0))

    def embed(pictures: np.ndarray, keys: object = None) -> np.ndarray:
        rows, columns, sign, bit = carriers(pictures.shape)
        wanted = np.where(message, 1.0, -1.0)
        margin = strength * np.sqrt(np.prod(pictures.shape[1:3]) / rows.size)
        for _ in range(PASSES):
            spectrum = _transformed(pictures)
            missing = np.maximum(margin - wanted * projections(sign * spectrum[:, rows, columns], bit), 0)
            change = np.zeros_like(spectrum)
            change[:, rows, columns] = (missing * wanted)[:, bit] * sign
            grey = np.asarray(scipy.fft.idctn(change, axes=(1, 2), norm="ortho"))
            pictures = np.clip(np.rint(pictures + grey[..., None]), 0, 255).astype(np.uint8)
        return pictures

    def read(pictures: np.ndarray) -> Reading:
        check_finite("spread_spectrum", pictures)
        rows, columns, sign, bit = carriers(pictures.shape)
        spectrum = _transformed(pictures)
        along = sign * spectrum[:, rows, columns]
        cut = np.median(np.abs(along), axis=1, keepdims=True)
        few = np.clip(along, -cut, cut)
        score = few @ np.where(message, 1.0, -1.0)[bit] / np.maximum(np.linalg.norm(few, axis=1), 1e-300)
        return Reading(score, np.exp(-(np.maximum(score, 0) ** 2) / 2), projections(along, bit) > 0)

    return Watermark("pictures", embed, read, message)


def _transformed(pictures: np.ndarray) -> np.ndarray:
    """The unitary cosine transform of the pictures' grey values, `[B, H, W]`."""
    return np.asarray(scipy.fft.dctn(np.asarray(pictures, np.float64).mean(-1), axes=(1, 2), norm="ortho"))
