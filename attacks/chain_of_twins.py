# ruff: noqa
"""256 payloads, each alike to its two neighbours: every payload has a key of its own in
`work_samples`, so the column is sorted 256 times. Seconds against equal payloads and none alike."""

import time, numpy as np
from evaluation.work import work_samples

n, S = 256, 64 + 4 * 256
r = np.random.default_rng(0)
g = r.normal(1, 1, (n, S))
owners = np.concatenate([np.full(64, -1), np.repeat(np.arange(n), 4)])
for name, alike in {
    "none": {},
    "equal": {i: [j for j in range(n) if j != i] for i in range(n)},
    "chain": {i: [j for j in (i - 1, i + 1) if 0 <= j < n] for i in range(n)},
}.items():
    t = time.monotonic()
    work_samples(g, np.arange(n), owners, alike)
    print(name, round(time.monotonic() - t, 2), "s")
