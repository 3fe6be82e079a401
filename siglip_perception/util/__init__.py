"""What no room owns: devices, threads, files, the CPU."""
