"""SMT (Lin et al., ICCV 2023): scale-aware modulation, its blocks and networks."""
