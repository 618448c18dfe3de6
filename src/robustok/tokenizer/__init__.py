"""Image tokenizers: encoder, quantizer, latent perturbation, decoder, and the four assembled."""
