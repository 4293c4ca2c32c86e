"""What a training run or a rollout will need, before it starts: parameters, FLOPs, memory, disk, time."""
