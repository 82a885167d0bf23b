# SPDX-License-Identifier: MIT
"""The same limits and the SAE's encoder in PyTorch, to compare with. Prints one JSON object.

python3 torch_peer.py [DEVICE]    default: cuda; exits with 3 where there is no PyTorch with that device
"""
import json
import sys
import time

try:
    import torch
except ImportError:
    print("python3 has no torch", file=sys.stderr)
    sys.exit(3)

device = sys.argv[1] if len(sys.argv) > 1 else "cuda"
on_gpu = device.startswith("cuda")
if on_gpu and not torch.cuda.is_available():
    print("torch sees no CUDA device", file=sys.stderr)
    sys.exit(3)


def seconds_of(call, n_calls=10, n_rounds=5):
    """Of one call: the median of some rounds, after one that does not count."""
    rounds = []
    for _ in range(n_rounds + 1):
        start = time.perf_counter()
        for _ in range(n_calls):
            call()
        if on_gpu:
            torch.cuda.synchronize()
        rounds.append((time.perf_counter() - start) / n_calls)
    return sorted(rounds[1:])[n_rounds // 2]


def copy_rate(n):
    x = torch.ones(n, device=device)
    out = torch.empty_like(x)
    return 2 * 4 * n / seconds_of(lambda: out.copy_(x))


def product_rate(n):
    x = (torch.rand(n, n, device=device) * 2 - 1).bfloat16()
    w = (torch.rand(n, n, device=device) * 2 - 1).bfloat16()
    return 2 * n**3 / seconds_of(lambda: x @ w.T)


def sae_encode_rate(n_tok, d_model, d_sae):
    """Tokens per second of relu(x w^T + b) in bf16 and the list of what fires, one feature in 700."""
    x = torch.randn(n_tok, d_model, device=device).bfloat16()
    w = (torch.randn(d_sae, d_model, device=device) / d_model**0.5).bfloat16()
    b = torch.full((d_sae,), -3.0, device=device).bfloat16()

    def encode():
        f = torch.relu(torch.nn.functional.linear(x, w, b))
        at = f.nonzero(as_tuple=True)
        return at, f[at]

    return n_tok / seconds_of(encode)


with torch.no_grad():
    print(json.dumps({
        "torch": torch.__version__,
        "copy_bytes_per_s": copy_rate(1 << 29 if on_gpu else 1 << 24),
        "product_flops": product_rate(8192 if on_gpu else 512),
        "sae_encode_tokens_per_s": sae_encode_rate(*((2048, 4096, 65536) if on_gpu else (128, 128, 2048))),
    }))
