# The environment of `make setup`, for a CPU or, with --build-arg TORCH_INDEX= (empty) and `docker run --gpus all`, for CUDA:
#   docker build -t erv .
#   docker run --rm -v "$PWD/runs:/erv/runs" erv study -c study/demo --output runs/demo
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /erv
COPY . .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" make setup

ENV PATH="/erv/.venv/bin:${PATH}"
ENTRYPOINT ["erv"]
CMD ["--help"]
