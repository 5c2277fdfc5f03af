"""What the kernel tells of processes, files and cgroups; knows neither runc nor conmon."""
