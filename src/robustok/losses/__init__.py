"""Terms of the training losses: each function returns one scalar; weighing and logging is the stage's."""
