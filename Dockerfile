# docker build -t scramble .                                  CUDA (the default wheels of torch bring CUDA with them)
# docker build -t scramble --build-arg TORCH=cpu .            CPU
# docker run --gpus all -v $PWD/runs:/scramble/runs -v $HOME/.cache/huggingface:/root/.cache/huggingface scramble \
#     scripts/train.py +experiment=molmo_dpo data.path=/data/coco
FROM python:3.11-slim-bookworm

ARG TORCH=cuda
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false VENV=/opt/scramble
WORKDIR /scramble

# git is needed because every result records the commit, and a compiler because torch.compile and FlexAttention use it.
RUN apt-get update && apt-get install -y --no-install-recommends git gcc g++ && rm -rf /var/lib/apt/lists/*

# Install the libraries first, so that a change of the code does not install them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scripts/install.sh scripts/
COPY src/scramble/__init__.py src/scramble/
RUN TORCH=$TORCH EXTRAS=cluster,study,math sh scripts/install.sh

COPY . .
ENTRYPOINT ["/opt/scramble/bin/python"]
CMD ["scripts/train.py", "--help"]
