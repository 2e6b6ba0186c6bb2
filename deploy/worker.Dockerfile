# One worker, with PyTorch and its CUDA libraries. From the top folder: docker build -f deploy/worker.Dockerfile .
# The machine needs only NVIDIA's driver and container toolkit. Without CUDA, a tenth of the size:
#   --build-arg PIP_EXTRA_INDEX_URL=PYTORCH_CPU_INDEX

FROM python:3.12-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/animatic
WORKDIR /src
# First what is large and seldom changes, then the other dependencies, then our own code.
COPY constraints.txt ./
RUN /opt/animatic/bin/pip install --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
RUN /opt/animatic/bin/pip install --constraint constraints.txt '.[worker]'
COPY shared shared
COPY api api
COPY worker worker
COPY cli cli
COPY migrations migrations
RUN /opt/animatic/bin/pip install --no-deps --force-reinstall .

FROM python:3.12-slim-bookworm
# Triton compiles the engine's kernels where they run; Python's headers are in the image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home animatic \
    && install --directory --owner animatic --group animatic /models
COPY --from=build /opt/animatic /opt/animatic
ENV PATH=/opt/animatic/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models/huggingface ANIMATIC_MODEL_DIR=/models/animatic \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /home/animatic
USER animatic
VOLUME /models
CMD ["python", "-m", "worker"]
