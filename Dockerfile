# For CPUs:  docker build -t gantransfer .
# For GPUs:  docker build -t gantransfer --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg TORCH=torch==2.13.0 .
# Any Debian or Ubuntu is a base. A "devel" image of CUDA brings nvcc, which compiles the kernels for the GPU; choose its
# version by that of torch (13 for torch's default build).
ARG BASE=debian:bookworm-slim
FROM ${BASE}

RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ python3 python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/gantransfer
ENV PATH=/opt/gantransfer/bin:$PATH PYTHONUNBUFFERED=1

# torch first and alone, so that nothing replaces the build chosen here
ARG TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
RUN pip install --no-cache-dir ${TORCH}
WORKDIR /opt/src
COPY requirements.txt ./
RUN grep -v '^torch==' requirements.txt > others.txt && pip install --no-cache-dir -r others.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .

WORKDIR /data
CMD ["gantransfer", "--help"]
