"""What a training run costs, before it is started: memory, time, storage and traffic from counted FLOPs and bytes."""
