"""Time, memory and multiply-adds of blocks and of whole models. `docs/bench.md` explains the numbers."""
