#!/bin/bash
# One machine, all of its GPUs: a tokenizer, its tokens, a generator, the decoder.
# The same command again goes on from the last save. After a crash torchrun starts the processes anew, three times at most.
set -euo pipefail

images=${IMAGES:-imagenet/train} # a folder of images, or tar shards
runs=${RUNS:-runs}
gpus=$(nvidia-smi --list-gpus | wc -l)

# seconds for a step and a save once somebody wants the run to stop, before processes are killed
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120

robustok() {
    torchrun --standalone --nproc-per-node "$gpus" --max-restarts 3 -m robustok "$@"
}

robustok train-tokenizer robustok_imagenet256 --images "$images" --out "$runs/tokenizer" \
    --performance.compile inductor --performance.tf32 true
robustok encode --tokenizer "$runs/tokenizer" --images "$images" --out "$runs/tokens"
robustok train-generator rar_l --tokenizer "$runs/tokenizer" --cache "$runs/tokens" --out "$runs/generator" \
    --performance.compile inductor --performance.tf32 true
robustok post-train --preset post_robustok --tokenizer "$runs/tokenizer" --generator "$runs/generator" \
    --images "$images" --out "$runs/better" --control
