//! Integration tests, one binary.

/// AlexNet, the loss and the optimiser against PyTorch's numbers.
mod golden_network;
