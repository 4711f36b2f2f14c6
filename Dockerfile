# yolo_attn on the CPU.
#
#   docker build -t yolo-attn .
#   docker run --rm -it -v "$PWD:/work" yolo-attn yolo train model=yolov8n-sam.yaml data=shapes.yaml epochs=3
#
# --shm-size=2g is needed for workers of the data loader; without it, add workers=0.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
# PyTorch's CPU build first; otherwise pip downloads several gigabytes of CUDA libraries.
RUN pip install --no-cache-dir uv && uv pip install --system --no-cache --torch-backend cpu torch torchvision
COPY . /src
RUN pip install --no-cache-dir "/src[export]" && rm -rf /src && yolo-attn doctor

RUN useradd --create-home --shell /bin/bash yolo && mkdir /work && chown yolo /work
USER yolo
WORKDIR /work
CMD ["yolo-attn", "list"]
