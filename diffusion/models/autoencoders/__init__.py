"""Autoencoders: between pictures and the latents that diffusion models see."""
