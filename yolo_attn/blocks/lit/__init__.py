"""LIT (Pan et al., AAAI 2022): early MLP stages and deformable token merging."""
