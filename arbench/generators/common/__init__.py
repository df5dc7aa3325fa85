"""What several methods share: layers, the causal and the masked backbone, sampling settings, token layouts."""
