"""SKNet (Li et al., CVPR 2019): selective kernels, units and networks."""
