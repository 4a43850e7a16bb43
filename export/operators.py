"""Operators of our own domain, in which a captured network says what a lowering has to turn into plain ONNX.

| operator | inputs | outputs |
| --- | --- | --- |
| ``GatedConv`` | x, W, b, W1, b1, W2, b2 | z act(conv(x)), z, y |
| ``RoutedConv`` | x, W, scale [K, C], shift [K, C], bits [K, C], chosen [N] | z act(scale conv(x) + shift), z |
| ``Escalate`` | x, unsure [N] | what the second member of a cascade reads: x |
| ``Resolve`` | first, second, unsure [N] | second where unsure, else first |

The rows of scale, shift and bits are prototypes; ``chosen`` says which one an image takes.
"""

DOMAIN = "penstock"
GATED_CONV = "GatedConv"
ROUTED_CONV = "RoutedConv"
ESCALATE = "Escalate"
RESOLVE = "Resolve"
