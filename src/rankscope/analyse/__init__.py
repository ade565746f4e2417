"""What changed inside a trained model: spectra, hidden states, attention maps, neurons."""
