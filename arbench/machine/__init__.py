"""The machine: devices, memory, files, processes, progress, time. Knows nothing of generators or tokenizers."""
