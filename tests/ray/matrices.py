"""Matrices that run in seconds on one core. A rate needs tokens for 0.1 s: all of fewer may come in one read."""

from __future__ import annotations

FOUR_CELLS = """
name: four
defaults: {engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, quantisation: Q8_0, workload: pp8+tg200}
axes: {context: [512, 1K], kv_type: [f16, q8_0]}
measure: {repeats: 1, warmups: 0}
"""

TWO_SPLITS = """
name: splits
defaults: {engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, quantisation: Q8_0, workload: pp8+tg8}
axes: {context: [512], dedicated_vram: [512MiB, 32GiB]}
measure: {repeats: 1, warmups: 0}
"""

LONG_JOBS = 6
LONG = """
name: long
defaults: {engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, quantisation: Q8_0, workload: pp8+tg700}
axes: {context: [2K, 3K]}
measure: {repeats: 3, warmups: 0}
"""

SLOW_JOBS = 2  # of some seconds each: what is done to one that is measuring is done before it ends
SLOW = LONG.replace("pp8+tg700", "pp8+tg1800").replace("[2K, 3K]", "[2K]").replace("repeats: 3", "repeats: 2")

LONGER_JOBS = 30
LONGER = LONG.replace("repeats: 3", "repeats: 15")

ENDLESS = LONG.replace("repeats: 3", "repeats: 1000")

FAILING = """
name: failing
defaults: {engine: embedded, runtime: cpu, threads: 1, workload: pp8+tg8, context: 512}
models:
  missing: {path: no-such-file.gguf}
  truncated: {path: truncated.gguf}
  text: {path: text.gguf}
axes: {model: [missing, "tiny:llama", truncated, text]}
include:
  - {model: "tiny:llama", engine: embedded, runtime: cpu, context: 1000000000, workload: pp8+tg8}
  - {model: "tiny:qwen3moe", engine: embedded, runtime: cpu, context: 512, workload: pp8+tg8}
measure: {repeats: 1, warmups: 0}
timeouts: {load: 60s}
"""
