"""CloFormer (Fan et al., 2023): AttnConv, its blocks and networks."""
