"""ACmix (Pan et al., CVPR 2022): attention and convolution from shared projections."""
