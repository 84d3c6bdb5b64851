"""A trained model on the Hub: its card, the record of its training, the push."""
