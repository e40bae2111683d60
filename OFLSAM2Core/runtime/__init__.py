"""The machine and the process: devices, memory, logs, and what libraries may not do."""
