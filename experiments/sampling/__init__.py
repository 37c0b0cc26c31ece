"""The parts of sampling from a run."""

from diffusion.package import public

# What projects outside of this library import.
__all__ = ["autoencoder_folders", "clip_coding", "generate", "run_denoiser", "trained_run", "tuned_run"]

public.moved({f"{__name__}.of_run": f"{__name__}.run_samples"})
