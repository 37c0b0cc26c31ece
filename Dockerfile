# docker build --tag jax-diffusion .                                             the CPU
# docker build --tag jax-diffusion:cuda12 --build-arg ACCELERATOR=cuda12 .       an NVIDIA GPU: docker run --gpus=all
# docker run --rm --volume "$PWD:/work" jax-diffusion train --config=digits --workdir=runs/digits
#
# CUDA's libraries come with the wheels of the lock: the host has the driver and its container toolkit, nothing more.
FROM python:3.12-slim AS environment
ARG ACCELERATOR=
COPY requirements*.txt /locks/
RUN python -m venv /opt/diffusion \
  && /opt/diffusion/bin/pip install --no-cache-dir --require-hashes \
       -r "/locks/requirements${ACCELERATOR:+-$ACCELERATOR}.txt"
ENV PATH=/opt/diffusion/bin:$PATH

# The wheel, for the last stage alone.
FROM environment AS installed
COPY pyproject.toml setup.py README.md LICENSE /source/
COPY configs /source/configs
COPY experiments /source/experiments
COPY launch /source/launch
COPY weights /source/weights
COPY diffusion /source/diffusion
RUN pip install --no-cache-dir --no-deps --no-build-isolation /source

# An environment to work on a clone in, which .devcontainer mounts.
FROM python:3.12-slim AS development
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends git make \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1000 researcher
COPY --from=environment --chown=researcher /opt/diffusion /opt/diffusion
ENV PATH=/opt/diffusion/bin:$PATH
USER researcher

FROM python:3.12-slim AS commands
RUN useradd --create-home --uid 1000 researcher && mkdir /work && chown researcher /work
COPY --from=installed /opt/diffusion /opt/diffusion
ENV PATH=/opt/diffusion/bin:$PATH
USER researcher
WORKDIR /work
ENTRYPOINT ["diffusion"]
CMD ["--help"]
