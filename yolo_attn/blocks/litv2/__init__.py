"""LITv2 (Pan et al., NeurIPS 2022): HiLo attention, its blocks and networks."""
