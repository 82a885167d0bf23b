# SPDX-License-Identifier: MIT
"""An SAE's dense encode in PyTorch. For each line "DTYPE N_TOK" prints the seconds of one call.

python3 torch_sae.py D_MODEL D_SAE THREADS
"""
import sys
import time

import torch

d_model, d_sae, n_threads = map(int, sys.argv[1:])
torch.set_num_threads(n_threads)
torch.manual_seed(1)
dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
weights = {}
print("ready", flush=True)


def seconds_of(call):
    n_calls, start = 0, time.perf_counter()
    while n_calls == 0 or time.perf_counter() - start < 0.05:
        call()
        n_calls += 1
    return (time.perf_counter() - start) / n_calls


for line in sys.stdin:
    name, n_tok = line.split()
    dtype = dtypes[name]
    if dtype not in weights:
        weights.clear()
        weights[dtype] = (torch.rand(d_sae, d_model, dtype=dtype) - 0.5) * (12 / d_model) ** 0.5
    w, b = weights[dtype], torch.full((d_sae,), -3.0, dtype=dtype)
    x = torch.randn(int(n_tok), d_model).to(dtype)
    with torch.no_grad():
        print(seconds_of(lambda: torch.relu(torch.nn.functional.linear(x, w, b))), flush=True)
