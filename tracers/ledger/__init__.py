"""The account of all memory: of the host, of its cgroups, processes and users."""
