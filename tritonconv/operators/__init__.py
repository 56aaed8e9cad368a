"""The operators fprop, dgrad, wgrad and wgrad_with_bias as torch's dispatcher sees them.

`library` declares them. `decision` decides which implementation runs a call, and `compute` runs it. `autograd`
differentiates the operators, and `vmap` batches them. Importing this package registers the operators, their derivatives
and their vmap rules with torch.
"""

from tritonconv.operators import compute as _compute  # noqa: F401 - registers the implementations
from tritonconv.operators import vmap as _vmap  # noqa: F401 - registers the vmap rules
