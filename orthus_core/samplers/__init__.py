"""Drawing and writing with a trained model: the denoising of patches and the loop around it."""
