"""A model to the Hugging Face hub: its card, and the upload."""
