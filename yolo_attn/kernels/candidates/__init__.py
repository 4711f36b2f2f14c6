"""Kernels that no slot takes by default, since they have not been measured. Nothing here is imported until chosen."""
