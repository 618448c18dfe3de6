"""The whole main job on the embedded images: what `robustok demo` runs."""
