"""What every stage costs: CPU per event, measured in one run of one process. `./hooktide bench` prints it."""
