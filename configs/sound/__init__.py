"""Runs on sound: notes of synthetic instruments by their pitch, as samples and as lapped spectra.

    diffusion train --config=sound/tones --workdir=runs/tones

`sound/tones`: a transformer on harmonics and the rest, by instrument and pitch; `sound/spectrum` and `sound/waveform`:
networks on the MDCT and on samples, for clips without a known pitch. docs/sound.md has their figures.
"""
