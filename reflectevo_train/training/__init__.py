"""What the training scripts are made of: arguments, examples, batches, trainers, evaluation while training."""
