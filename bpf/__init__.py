"""The kernel side: what this kernel has, programs compiled and attached, events as arrays."""
