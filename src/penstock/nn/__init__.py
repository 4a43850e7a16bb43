"""Gates, surgery, losses, cost, backbones and checkpoints."""
