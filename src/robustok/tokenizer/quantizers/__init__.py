"""One quantizer a file; `robustok.tokenizer.quantizer` gathers them."""
