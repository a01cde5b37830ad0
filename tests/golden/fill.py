"""Deterministic, download-free weights for golden packs.

fill(entries, family) -> {key: numpy array}; the same on every machine.

entries: list of [key, shape, dtype] (dtype: a numpy/torch name such as
"float32" or "int64"), or [key, shape, dtype, value] where value is a number
that fills the whole tensor (used for structural buffers).
family: a name of FAMILIES = {name: (gain, bias_mean, res_scale, nl_scale)}.
gain: weight std is sqrt(gain/fan_in) ("cnn" 2 = He, "vit" 1).
bias_mean: 1-D biases are N(bias_mean, 0.1).
res_scale: factor on keys ending in "bn3.weight" (last norm of a bottleneck).
nl_scale: factor on matrices and kernels whose key contains "NL_" (non-local).
The families other than "cnn" and "vit" exist because a random network followed
by average pooling can map all images to nearly one direction, or blow rounding
errors up; each spec names a family that gave a mean pairwise cosine below
0.97 and features that are stable under a change of batch size.

Only numpy is needed.  to_torch(...) is a thin helper.

Every tensor has its own generator:
    name = key without leading "module." / "_orig_mod." parts
    seed = int.from_bytes(sha256(name.encode()).digest()[:8], "little")
    g    = numpy.random.Generator(numpy.random.PCG64(seed))
Normal draws are put on a 1/65536 grid and uniform draws are 24-bit integers
divided by 2**24, so that the last bits of the platform's libm cannot matter;
sums are done in int64 (exact).

Rules, first match wins (leaf = text after the last dot, n = number of
elements, F = fan_in = elements per output row):
 1. entry has a value                           -> that value
 2. integer or bool dtype: num_batches_tracked -> 0, n_averaged -> 1
 3. leaf "p", n == 1 (GeM exponent)            -> 3.0
 4. leaf "logit_scale"                         -> log(10)
 5. leaf "running_var"                         -> U(0.5, 1.5)
    leaf "running_mean"                        -> N(0, 0.1)
 6. leaf "cls_token" or "class_embedding" or "dist_token" or "reg_token" or "cls_part*"
                                               -> N(0, 0.5)
    leaf "pos_embed" or "positional_embedding" -> N(0, 0.2)
    leaf "sie_embed" or "cv_embed"             -> N(0, 0.1)
    leaf "relative_position_bias_table"        -> N(0, 0.5)
    leaf "cls_ctx", "token_prefix", "token_suffix", or key ends in
    "token_embedding.weight"                   -> N(0, 0.02)
 7. leaf contains "bias"                       -> N(bias_mean, 0.1) if ndim <= 1,
                                                  N(0, 0.1) otherwise
 8. ndim <= 1 (norm scale, layer scale, ...)   -> U(0.5, 1.5)
                                                  (times res_scale for bn3.weight)
 9. ndim >= 2: Gaussian, F = n / shape[0], row = one output channel;
    for leaf "proj"/"text_projection" (stored input x output) F = shape[0] and
    a row is one column; the row mean is removed when F > 1; then
    scaled to std sqrt(gain/F) (times nl_scale for NL_ keys).
    Zero-mean rows stop the common positive part after a ReLU from making
    all images alike.
Result is rounded once to the entry's dtype.
"""

import hashlib
import math

import numpy as np

GRID = 65536.0
FAMILIES = {
    "cnn": (2.0, 0.0, 1.0, 1.0),
    "cnn_b1": (2.0, -0.1, 1.0, 1.0),
    "cnn_b2": (2.0, -0.15, 1.0, 1.0),
    "cnn_b3": (2.0, -0.2, 1.0, 1.0),
    "cnn_g1": (2.6, -0.2, 1.0, 1.0),
    "cnn_g2": (2.6, -0.3, 1.0, 1.0),
    "cnn_b4": (2.0, -0.4, 1.0, 1.0),
    "cnn_hot": (3.0, 0.0, 1.0, 1.0),
    "cnn_g0": (2.3, 0.0, 1.0, 1.0),
    "cnn_m": (1.5, 0.0, 1.0, 1.0),
    "cnn_lo": (1.0, 0.0, 1.0, 1.0),
    "cnn_lo2": (0.7, 0.0, 1.0, 1.0),
    "cnn_nl": (2.6, -0.2, 0.7, 0.05),
    "cnn_nl2": (2.0, -0.4, 1.0, 0.05),
    "cnn_nl3": (2.0, -0.1, 0.5, 0.1),
    "vit": (1.0, 0.0, 1.0, 1.0),
    "vit_hot": (3.0, 0.0, 1.0, 1.0),
    "vit_hot2": (6.0, 0.0, 1.0, 1.0),
}


def clean(key):
    while True:
        for p in ("module.", "_orig_mod."):
            if key.startswith(p):
                key = key[len(p) :]
                break
        else:
            return key


def _gen(name):
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed))


def _normal_int(g, n):
    return np.rint(g.standard_normal(n) * GRID).astype(np.int64)


def _uniform(g, n):
    return g.integers(0, 1 << 24, size=n).astype(np.float64) / float(1 << 24)


def fill_one(key, shape, dtype="float32", value=None, family="cnn"):
    shape = tuple(int(s) for s in shape)
    n = int(np.prod(shape)) if shape else 1
    dtype = str(dtype).replace("torch.", "")
    np_dtype = np.dtype(dtype)
    name = clean(key)
    leaf = name.rsplit(".", 1)[-1]
    if value is not None:
        return np.full(shape, value, np_dtype)
    if np_dtype.kind in "iub":
        const = {"num_batches_tracked": 0, "n_averaged": 1}
        if leaf not in const:
            raise ValueError("integer tensor without a rule: " + key)
        return np.full(shape, const[leaf], np_dtype)
    if leaf == "p" and n == 1:
        return np.full(shape, 3.0, np_dtype)
    if leaf == "logit_scale":
        return np.full(shape, math.log(10.0), np_dtype)
    gain, bias_mean, res_scale, nl_scale = FAMILIES[family]
    g = _gen(name)
    std = None
    mean = 0.0
    if leaf == "running_var":
        a = 0.5 + _uniform(g, n)
    elif leaf == "running_mean":
        std = 0.1
    elif leaf in ("cls_token", "class_embedding", "dist_token", "reg_token") or leaf.startswith(
        "cls_part"
    ):
        std = 0.5
    elif leaf in ("pos_embed", "positional_embedding"):
        std = 0.2
    elif leaf in ("sie_embed", "cv_embed"):
        std = 0.1
    elif leaf == "relative_position_bias_table":
        std = 0.5
    elif leaf in ("cls_ctx", "token_prefix", "token_suffix") or name.endswith(
        "token_embedding.weight"
    ):
        std = 0.02
    elif "bias" in leaf:
        std = 0.1
        mean = bias_mean if len(shape) <= 1 else 0.0
    elif len(shape) <= 1:
        a = 0.5 + _uniform(g, n)
        if name.endswith("bn3.weight"):
            a = a * res_scale
    else:
        cols = leaf in ("proj", "text_projection") and len(shape) == 2
        q = _normal_int(g, n).reshape(shape[0], -1)
        axis = 0 if cols else 1
        fan = q.shape[axis]
        if fan > 1:
            # exact: integers up to ~1e6 times fan, far below 2**63
            q = q * fan - q.sum(axis=axis, keepdims=True)
            unit = GRID * fan * math.sqrt(1.0 - 1.0 / fan)
        else:
            unit = GRID
        a = q.reshape(-1).astype(np.float64) * (math.sqrt(gain / fan) / unit)
        if "NL_" in name:
            a = a * nl_scale
    if std is not None:
        a = mean + _normal_int(g, n).astype(np.float64) * (std / GRID)
    return a.reshape(shape).astype(np_dtype)


def fill(entries, family="cnn"):
    out = {}
    for e in entries:
        key, shape, dtype = e[0], e[1], e[2]
        out[key] = fill_one(key, shape, dtype, e[3] if len(e) > 3 else None, family)
    return out


def digest(state):
    """sha256 over key, NUL, little-endian bytes of every tensor, in order."""
    h = hashlib.sha256()
    for k, a in state.items():
        a = np.asarray(a)
        h.update(k.encode() + b"\0")
        h.update(np.ascontiguousarray(a.astype(a.dtype.newbyteorder("<"), copy=False)).tobytes())
    return h.hexdigest()


def to_torch(state):
    import collections
    import torch

    return collections.OrderedDict((k, torch.from_numpy(np.array(a))) for k, a in state.items())


def from_spec(spec):
    """The bare state dict (before wrapping) for one spec.json."""
    return fill(spec["checkpoint"]["entries"], spec["checkpoint"]["fill_family"])
