"""Runs on sound: notes of synthetic instruments, as samples and as lapped spectra, and a vocoder.

    diffusion train --config=sound/spectrum --workdir=runs/spectrum

`sound/waveform`: a 1-D U-Net on the samples; `sound/spectrum`: a transformer on the MDCT; `sound/vocoder`: DiffWave,
from a spectrogram that has no phases. docs/sound.md has their figures.
"""
