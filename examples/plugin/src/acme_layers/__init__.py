"""A plugin for topograph: the mutation `scale_layer` and the block `gated`."""
