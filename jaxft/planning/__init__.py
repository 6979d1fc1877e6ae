"""What a run will cost on devices that are not here: parameters, FLOPs, memory, collectives, time."""
