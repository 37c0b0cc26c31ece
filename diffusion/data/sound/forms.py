"""How a clip is an example of a run, and back: its samples, its lapped spectrum, its harmonics and the rest.

All are without loss.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data.sound import shaping
from diffusion.data.sound.harmonics import harmonic_sum, harmonics_apart
from diffusion.data.sound.mdct import imdct, kaiser_bessel_derived, mdct, sine_window
from diffusion.data.sound.spectrograms import between_bands, log_mel

WINDOWS = {"sine": sine_window, "kaiser_bessel": kaiser_bessel_derived}
LONGEST = 2**26  # samples of a clip: 256 MiB
CONCERT_PITCH = 440.0  # reference in Hz; a pitch counts in octaves from it
VIBRATO_DEPTH, VIBRATO_RATE = 0.01, 5.5  # units of a vibrato in a condition: share of the pitch, and middle rate in Hz


class Form(NamedTuple):
    """A map of waveforms onto examples of a size that suits networks, and its inverse.

    Attributes:
        example: the map of waveforms `[..., L]` onto examples; where `pitched`, of (waveforms, pitches in Hz `[...]`
            or at each sample `[..., L]`, sample rate).
        waveform: its inverse, of examples in place of the waveforms.
        block: how many samples belong together; it divides L.
        by_frequency: whether the steps are the `block` frequencies, and the channels L / block times, two numbers for
            each where `pitched`; otherwise the steps are L / block times, and the channels the block.
        pitched: whether the maps need the pitch of each clip.
        rows: the number of steps where it is not `block`; otherwise 0.
    """

    example: Callable[..., Any]
    waveform: Callable[..., Any]
    block: int
    by_frequency: bool = False
    pitched: bool = False
    rows: int = 0


def samples(fold: int = 1, gain: float = 2.0) -> Form:
    """The samples themselves; with `fold`, several in a row are the channels of one step.

    Args:
        fold: how many samples make one step, at least 1.
        gain: the factor of the samples, for the size that noise has; positive.

    Raises:
        ValueError: for a value out of range.
    """
    if fold < 1 or gain <= 0:
        raise ValueError(f"fold = {fold} must be at least 1, and gain = {gain} positive")
    return Form(
        lambda waveform: gain * waveform.reshape(*waveform.shape[:-1], -1, fold),
        lambda x: x.reshape(*x.shape[:-2], -1) / gain,
        fold,
    )


def lapped_spectrum(
    bins: int = 64,
    window: str = "sine",
    power: float = 0.5,
    gain: float = 2.0,
    along: str = "time",
    alternating: bool = False,
) -> Form:
    """The MDCT, whose coefficients a power makes more equal in size, sign by sign.

        x = gain sign(X) |X|^power,   X = sign(x) |x / gain|^(1 / power)

    Along time, what a network of sequences learns of one frequency it has to learn again at the next. Along frequency,
    with the blocks as channels, a convolution knows a partial wherever it lies; the blocks are then few and long.

    The phase of a steady tone turns by pi kappa from block to block, where kappa is its frequency in bins. For a tone
    that is one bin higher, every second block therefore has the opposite sign, which is a different picture for a
    convolution. With signs that alternate,

        x_ik = (-1)^(i k) gain sign(X_ik) |X_ik|^power,

    tones of random phase have one distribution, which moves along with kappa: pitch is a shift.

    Args:
        bins: N, the coefficients of a block, even.
        window: the window, "sine" or "kaiser_bessel".
        power: the exponent, in (0, 1]; 1 changes nothing.
        gain: the factor of the coefficients, for the size that noise has; positive.
        along: the axis of an example's steps, "time" (`[L / bins, bins]`) or "frequency" (`[bins, L / bins]`).
        alternating: whether every second coefficient of every second block has the other sign, see above.

    Raises:
        ValueError: for a value out of range, or an unknown name.
    """
    if along not in ("time", "frequency"):
        raise ValueError(f"along = {along!r}. Valid: time, frequency")
    if window not in WINDOWS:
        raise ValueError(f"window = {window!r}. Valid: {', '.join(WINDOWS)}")
    if bins < 2 or bins % 2 or not 0 < power <= 1 or gain <= 0:
        raise ValueError(f"bins = {bins} must be even, power = {power} in (0, 1], and gain = {gain} positive")
    shape = WINDOWS[window](bins)
    numerics = lambda x: jnp if isinstance(x, jax.Array) else np
    signed = lambda x, power: numerics(x).sign(x) * abs(x) ** power
    turned = lambda x: x.swapaxes(-1, -2) if along == "frequency" else x

    def alternated(x: Any) -> Any:
        both_odd = np.outer(np.arange(x.shape[-2]) % 2, np.arange(bins) % 2)
        return x * (1 - 2 * both_odd).astype(x.dtype) if alternating else x

    return Form(
        lambda waveform: turned(alternated(gain * signed(mdct(waveform, shape), power))),
        lambda x: imdct(signed(alternated(turned(x)) / gain, 1 / power), shape),
        bins,
        along == "frequency",
    )


def harmonics_and_rest(
    harmonics: int = 72, hop: int = 512, gains: tuple[float, float] = (2.0, 5.0), power: float = 0.5
) -> Form:
    """The amplitudes of a note's harmonics, and below them the lapped spectrum of the rest; see `sound.harmonics`.

        x = [gain a |a|^(power - 1), its real parts at all times, then its imaginary parts;    H rows
             gain' sign(X) |X|^power, X the MDCT of the rest, in blocks of hop / 2]            hop / 2 rows

    The rows are the steps. A row of a steady tone is constant, and the same row is the same harmonic at every pitch.

    Args:
        harmonics: H, the number of harmonics.
        hop: the samples from frame to frame of the amplitudes, a multiple of 4.
        gains: the factors of the amplitudes and of the rest, for the size that noise has; positive.
        power: the exponent of the sizes, in (0, 1]; 1 changes nothing.

    Returns:
        The form of examples `[H + hop / 2, 2 L / hop]`, which needs the pitch of each clip.

    Raises:
        ValueError: for a value out of range.
    """
    if harmonics < 1 or hop < 4 or hop % 4:
        raise ValueError(f"harmonics = {harmonics} must be at least 1, and hop = {hop} a multiple of 4")
    if not 0 < power <= 1 or len(gains) != 2 or min(gains) <= 0:
        raise ValueError(f"power = {power} must be in (0, 1], and gains = {gains} two positive numbers")
    window = sine_window(hop // 2)

    def bent(numbers: np.ndarray, power: float) -> np.ndarray:
        size = np.abs(numbers)
        return numbers * np.where(size > 0, np.maximum(size, np.finfo(np.float64).tiny) ** (power - 1), 0)

    def example(waveform: Any, pitch: Any, sample_rate: int) -> np.ndarray:
        amplitudes, rest = harmonics_apart(waveform, pitch, sample_rate, harmonics, hop)
        tone = gains[0] * bent(amplitudes, power).swapaxes(-1, -2)
        spectrum = gains[1] * bent(mdct(rest, window), power).swapaxes(-1, -2)
        return np.concatenate([np.concatenate([tone.real, tone.imag], -1), spectrum], -2)

    def waveform(x: Any, pitch: Any, sample_rate: int) -> np.ndarray:
        tone, spectrum = np.split(np.asarray(x, np.float64).swapaxes(-1, -2), [harmonics], axis=-1)
        real, imaginary = np.split(tone / gains[0], 2, axis=-2)
        rest = imdct(bent(spectrum / gains[1], 1 / power), window)
        return harmonic_sum(bent(real + 1j * imaginary, 1 / power), pitch, sample_rate, hop) + rest

    return Form(example, waveform, hop, by_frequency=True, pitched=True, rows=harmonics + hop // 2)


class Sound(NamedTuple):
    """The form of the records of a source of sound.

    Attributes:
        sample_rate: the samples a second, in Hz.
        length: L, samples of a clip.
        form: the form of a clip as an example.
        mels: bands of the levels that a record has as its condition; 0 for none.
        window, hop: the window and the hop of these levels, in samples.
        shaped: whether clips are flattened by their levels, and noise shaped by them; see `sound.shaping`.
    """

    sample_rate: int
    length: int
    form: Form
    mels: int = 0
    window: int = 256
    hop: int = 64
    shaped: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of an example, (steps, channels)."""
        blocks, block = self.length // self.form.block, self.form.block
        if self.form.pitched:
            return self.form.rows, 2 * blocks
        return (block, blocks) if self.form.by_frequency else (blocks, block)

    @property
    def condition_shape(self) -> tuple[int, int]:
        """The shape of `condition`."""
        frames = self.length // self.hop
        return (self.form.block, frames) if self.form.by_frequency else (frames, self.mels)

    def levels(self, waveform: Any) -> Any:
        """`log_mel` of waveforms `[..., L]`: `[..., L / hop, mels]`."""
        return log_mel(waveform, self.sample_rate, self.mels, self.window, self.hop)

    def condition(self, levels: Any) -> Any:
        """The condition that a network receives for levels `[..., L / hop, mels]`.

        It is the levels themselves where the steps of an example are times; where they are frequencies, it is, at each
        of them, all frames between the bands, `[..., block, L / hop]`.
        """
        if not self.form.by_frequency:
            return levels
        return between_bands(levels, self.sample_rate, self.form.block).swapaxes(-1, -2)

    def pitch_condition(self, pitch: Any, vibrato: Any = None) -> dict[str, np.ndarray]:
        """The condition of clips of a form that needs their pitch.

            f_0(t) = pitch (1 + depth sin(2 pi rate t))

        Args:
            pitch: the pitches in Hz, float `[...]`, positive.
            vibrato: the depth of each clip's vibrato as a share of the pitch, in [0, 1), and its rate in Hz, float
                `[..., 2]`; None for clips of a constant pitch whose condition does not state it.

        Returns:
            "vector": the pitch in octaves above 440 Hz, float32 `[..., 1]`; with vibrato `[..., 3]`, followed by the
            depth over 0.01 and the rate above 5.5 Hz.
        """
        columns = [np.log2(np.asarray(pitch, np.float64) / CONCERT_PITCH)]
        if vibrato is not None:
            depth, rate = np.moveaxis(np.asarray(vibrato, np.float64), -1, 0)
            columns += [depth / VIBRATO_DEPTH, rate - VIBRATO_RATE]
        return {"vector": np.stack(columns, -1).astype(np.float32)}

    def example(self, waveform: Any, condition: Any = None) -> Any:
        """Waveforms `[..., L]` as examples `[..., *shape]`; a form that needs their pitch reads it in the condition."""
        if self.form.pitched:
            return self.form.example(waveform, self._pitch(condition), self.sample_rate)
        if self.shaped:
            waveform = shaping.flattened(waveform, self.levels(waveform), self.sample_rate, self.window)
        return self.form.example(waveform)

    def waveform(self, x: Any, levels: Any = None, condition: Any = None) -> Any:
        """The inverse of `example`; for shaped clips it needs their levels.

        Raises:
            ValueError: if they are missing, or the pitch of a form that needs it.
        """
        if self.form.pitched:
            return self.form.waveform(x, self._pitch(condition), self.sample_rate)
        waveform = self.form.waveform(x)
        if not self.shaped:
            return waveform
        if levels is None:
            raise ValueError(
                "the spectra of shaped clips were divided by their levels, so the levels are needed to return a "
                "waveform"
            )
        return shaping.shaped(waveform, levels, self.sample_rate, self.window)

    def reads_alike(self, other: "Sound") -> bool:
        """Whether two sounds have the same settings, and the same waveform of a random example."""
        settings = lambda sound: (sound._replace(form=None), sound.form._replace(example=None, waveform=None))
        if settings(self) != settings(other):
            return False
        examples = np.random.default_rng(0).standard_normal((1, *self.shape))
        pitch = (np.array([CONCERT_PITCH]), self.sample_rate) if self.form.pitched else ()
        return np.array_equal(self.form.waveform(examples, *pitch), other.form.waveform(examples, *pitch))

    def _pitch(self, condition: Any) -> np.ndarray:
        if not isinstance(condition, Mapping) or "vector" not in condition:
            raise ValueError(
                "this form needs the pitch of each clip. Pass the condition that Sound.pitch_condition(pitch) makes"
            )
        octaves, *vibrato = np.moveaxis(np.asarray(condition["vector"], np.float64), -1, 0)
        pitch = CONCERT_PITCH * 2**octaves
        if not vibrato:
            return pitch
        depth, rate = vibrato[0] * VIBRATO_DEPTH, vibrato[1] + VIBRATO_RATE
        angle = 2 * np.pi * rate[..., None] * np.arange(self.length) / self.sample_rate
        return pitch[..., None] * (1 + depth[..., None] * np.sin(angle))

    @property
    def can_shape(self) -> bool:
        """Whether noise can be shaped by the levels, see `sound.shaping`."""
        block = self.window // 2
        return self.mels > 1 and not (block % 2 or block % self.hop or self.length % block)

    def check(self) -> None:
        """Refuses sizes that do not fit each other, before anything is read.

        Raises:
            ValueError: naming them.
        """
        if self.sample_rate < 1 or self.length < 1 or self.mels < 0:
            raise ValueError(
                f"sample_rate = {self.sample_rate} and length = {self.length} must be at least 1, and mels = "
                f"{self.mels} at least 0"
            )
        if self.length > LONGEST:
            raise ValueError(
                f"length = {self.length}: a clip of {self.length / self.sample_rate:.0f} s at {self.sample_rate} Hz "
                f"has {4 * self.length / 2**30:.1f} GiB. Valid: up to {LONGEST} samples "
                f"({4 * LONGEST / 2**30:.2f} GiB); cut it into shorter clips"
            )
        if self.length % self.form.block:
            raise ValueError(f"length = {self.length} is not a multiple of {self.form.block}, the samples of one step")
        if self.mels:
            self.levels(np.zeros(max(self.hop, 1), np.float32))  # refuses a hop, a window and bands that do not fit
            if self.length % self.hop:
                raise ValueError(f"length = {self.length} is not a multiple of hop = {self.hop}")
        if self.form.by_frequency and (self.shaped or self.mels == 1):
            raise ValueError(
                f"shaped = {self.shaped}, mels = {self.mels}: examples along frequency cannot be divided by levels, "
                "because their levels are interpolated between bands. Valid: shaped = False, and no bands or at least "
                "2"
            )
        if self.shaped and not self.can_shape:
            raise ValueError(
                f"shaped: mels = {self.mels} must be at least 2, and half of window = {self.window} must be even, a "
                f"multiple of hop = {self.hop}, and a divisor of length = {self.length}"
            )
        if self.form.pitched and self.mels:
            raise ValueError(
                f"mels = {self.mels}: clips with a pitch already have it as their condition. Valid: mels = 0"
            )
